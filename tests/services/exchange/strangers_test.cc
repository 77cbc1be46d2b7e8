// Who connects and is no worker of the cluster, or behaves like none.

#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/services/exchange/exchange_pair.h"

namespace conclave::services {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using worker::FrameHeader;

// A socket to a transport, with blocking calls.
class Stranger {
 public:
  explicit Stranger(const Side& side) : socket_(io_) {
    const Address address = *Address::Parse(side.transport->address());
    socket_.connect(
        tcp::endpoint(asio::ip::make_address(address.host), static_cast<uint16_t>(address.port)));
  }

  template <typename Bytes>
  void Write(const Bytes& bytes) {
    error_code ignored;  // it may have closed already
    asio::write(socket_, asio::buffer(bytes.data(), bytes.size()), ignored);
  }

  std::optional<Verdict> Greet(const Hello& hello) {
    Write(EncodeHello(hello));
    ReplyBytes reply;
    error_code error;
    asio::read(socket_, asio::buffer(reply), error);
    return error ? std::nullopt : ParseReply(reply);
  }

  void End() { socket_.shutdown(tcp::socket::shutdown_send); }

  // Until the other side closes.
  void AwaitEnd() {
    std::array<std::byte, 64> bytes;
    error_code error;
    while (!error) socket_.read_some(asio::buffer(bytes), error);
  }

 private:
  asio::io_context io_;
  tcp::socket socket_;
};

class Strangers : public ::testing::Test {
 protected:
  Strangers() : a_(TestOptions("a", Carrier::kTcp)), b_(TestOptions("b", Carrier::kTcp)) {}

  // As b would greet a.
  Hello HelloOfB() const {
    return {.from_id = "b",
            .from = b_.options.incarnation,
            .to_id = "a",
            .to = a_.options.incarnation,
            .numerics = a_.options.numerics,
            .limits = kTestLimits};
  }
  uint64_t Heard(Verdict verdict) const {
    return a_.transport->counts().heard[static_cast<size_t>(verdict)];
  }
  uint64_t Losses(Loss loss) const {
    return a_.transport->counts().losses[static_cast<size_t>(loss)];
  }

  Side a_, b_;
};

TEST_F(Strangers, WhoDoNotGreetAreToldSoAndCounted) {
  Stranger stranger(a_);
  stranger.Write(std::string("GET / HTTP/1.1\r\nHost: a\r\n\r\n") + std::string(400, 'x'));
  stranger.AwaitEnd();
  EXPECT_TRUE(WaitFor([&] { return Heard(Verdict::kNotAHello) == 1; }, "it to be counted"));
  EXPECT_EQ(a_.transport->stats().bad_frames, 1u);
}

TEST_F(Strangers, WhoHangUpInTheMiddleOfAHelloSentNoBadByte) {
  const HelloBytes hello = EncodeHello(HelloOfB());
  for (const size_t bytes : {0u, 1u, 319u}) {
    Stranger stranger(a_);
    stranger.Write(std::vector<std::byte>(hello.begin(), hello.begin() + bytes));
  }
  EXPECT_TRUE(WaitFor([&] { return a_.transport->counts().guests_gone == 3; }, "all three"));
  EXPECT_EQ(Heard(Verdict::kNotAHello), 0u);
  EXPECT_EQ(a_.transport->stats().bad_frames, 0u);
}

TEST_F(Strangers, WhoHangUpInTheMiddleOfSomethingElseSentNoHello) {
  for (const size_t bytes : {1u, 319u}) {
    Stranger stranger(a_);
    stranger.Write(std::vector<std::byte>(bytes, std::byte{0}));
  }
  EXPECT_TRUE(WaitFor([&] { return Heard(Verdict::kNotAHello) == 2; }, "both"));
  EXPECT_EQ(a_.transport->stats().bad_frames, 2u);
  EXPECT_EQ(a_.transport->counts().guests_gone, 0u);
}

TEST_F(Strangers, WhoSayNothingAreNotWaitedForLong) {
  PeerTransport::Options options = TestOptions("c", Carrier::kTcp);
  options.hello_timeout = std::chrono::milliseconds(50);
  const Side c(options);
  Stranger stranger(c);
  stranger.AwaitEnd();
  EXPECT_TRUE(WaitFor([&] { return c.transport->counts().guests_gone == 1; }, "it to be counted"));
  EXPECT_EQ(c.transport->stats().bad_frames, 0u);
}

TEST_F(Strangers, WhoSayNoHelloAndWaitSentNoHello) {
  PeerTransport::Options options = TestOptions("c", Carrier::kTcp);
  options.hello_timeout = std::chrono::milliseconds(50);
  const Side c(options);
  Stranger stranger(c);
  stranger.Write(std::string("GET / HTTP/1.1\r\n\r\n"));
  stranger.AwaitEnd();
  EXPECT_TRUE(WaitFor([&] { return c.transport->stats().bad_frames == 1; }, "it to be counted"));
  EXPECT_EQ(c.transport->counts().guests_gone, 0u);
}

TEST_F(Strangers, AreNotLetInTogetherInAnyNumber) {
  PeerTransport::Options options = TestOptions("c", Carrier::kTcp);
  options.max_guests = 2;
  const Side c(options);
  Stranger first(c), second(c), third(c);
  third.AwaitEnd();
  EXPECT_TRUE(WaitFor([&] { return c.transport->counts().guests_refused == 1; }, "a refusal"));
}

TEST_F(Strangers, AreToldWhatIsWrong) {
  const auto verdict = [&](auto change) {
    Hello hello = HelloOfB();
    change(hello);
    return Stranger(a_).Greet(hello);
  };
  EXPECT_EQ(verdict([](Hello&) {}), Verdict::kUnknown);
  a_.transport->Connect(b_.AsPeer());
  EXPECT_EQ(verdict([](Hello& hello) { hello.to_id = "b"; }), Verdict::kNotMe);
  EXPECT_EQ(verdict([](Hello& hello) { ++hello.to; }), Verdict::kNotMe);
  EXPECT_EQ(verdict([](Hello& hello) { ++hello.from; }), Verdict::kUnknown);
  EXPECT_EQ(verdict([](Hello& hello) { hello.from_id = "x"; }), Verdict::kUnknown);
  EXPECT_EQ(verdict([](Hello& hello) { hello.numerics = "x"; }), Verdict::kNumerics);
  EXPECT_EQ(verdict([](Hello& hello) { ++hello.limits.dim; }), Verdict::kLimits);
  EXPECT_EQ(verdict([](Hello& hello) { ++hello.limits.rows; }), Verdict::kLimits);
  EXPECT_EQ(verdict([](Hello& hello) { --hello.limits.rows; }), Verdict::kWelcome);
  EXPECT_EQ(verdict([](Hello& hello) { hello.ring = {8, 4096}; }), Verdict::kCarrier);
  EXPECT_EQ(a_.transport->stats().fenced, 0u) << "hellos are no frames";
}

// Greets as b does, is taken for it, and then sends one header.
class Impostors : public Strangers {
 protected:
  void Send(FrameHeader header, Loss loss) {
    // The real one takes what a sends, but finds no way to a itself.
    b_.transport->Connect(a_.AsPeer("127.0.0.1:1"));
    a_.transport->Connect(b_.AsPeer());
    Stranger stranger(a_);
    ASSERT_EQ(stranger.Greet(HelloOfB()), Verdict::kWelcome);
    stranger.Write(worker::EncodeHeader(header));
    stranger.End();
    ASSERT_TRUE(WaitFor([&] { return Losses(loss) > 0; }, std::string(NameOf(loss))));
  }

  FrameHeader GoodHeader() const {
    FrameHeader header = {.type = kTestLimits.type,
                          .from = b_.options.incarnation,
                          .to = a_.options.incarnation,
                          .rows = 4,
                          .routes = 4,
                          .dim = kTestLimits.dim,
                          .body_hash = 1,
                          .sequence = 1};
    header.body_bytes = worker::BodyBytes(header);
    return header;
  }
};

TEST_F(Impostors, WithFramesOfTwoBillionRowsGetNoMemoryForThem) {
  FrameHeader header = GoodHeader();
  header.rows = header.routes = uint32_t{1} << 31;
  header.body_bytes = worker::BodyBytes(header);
  Send(header, Loss::kHeader);
  EXPECT_EQ(a_.sink.count(), 0u);
}

TEST_F(Impostors, WithFramesOfAnotherProcessAreFenced) {
  FrameHeader header = GoodHeader();
  --header.from;
  Send(header, Loss::kFenced);
  EXPECT_EQ(a_.transport->stats().fenced, 1u);
}

TEST_F(Impostors, WithFramesForAnotherProcessAreFenced) {
  FrameHeader header = GoodHeader();
  ++header.to;
  Send(header, Loss::kFenced);
}

TEST_F(Impostors, WhoseFramesDoNotBeginAtTheFirst) {
  FrameHeader header = GoodHeader();
  header.sequence = 2;
  Send(header, Loss::kSequence);
}

TEST_F(Impostors, WithBodiesWithoutAChecksum) {
  FrameHeader header = GoodHeader();
  header.body_hash = 0;
  Send(header, Loss::kHeader);
}

TEST_F(Impostors, ThatEndInTheMiddleOfABody) { Send(GoodHeader(), Loss::kEnded); }

}  // namespace
}  // namespace conclave::services
