#pragma once
// The two sides of a hello: Dial connects, says it and hears the verdict; Guest hears one and gives
// a verdict. Both on the transport's thread.

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "services/exchange/hello.h"
#include "services/exchange/tcp_ends.h"

namespace conclave::services {

// A descriptor of ours, closed when it goes.
class OwnFd {
 public:
  OwnFd() = default;
  explicit OwnFd(int fd) : fd_(fd) {}
  OwnFd(OwnFd&& other) noexcept : fd_(other.Take()) {}
  OwnFd& operator=(OwnFd&& other) noexcept;
  ~OwnFd();

  int get() const { return fd_; }
  int Take();  // the caller closes it

 private:
  int fd_ = -1;  // none
};

class Dial : public std::enable_shared_from_this<Dial> {
 public:
  // The verdict and, if it is kWelcome, the connection. No verdict: nobody answered.
  using Done = std::function<void(std::optional<Verdict>, Stream)>;

  Dial(boost::asio::io_context& io, const HelloBytes& hello, Done done);

  void ByTcp(const std::string& host, const std::string& port);
  // name: an abstract one; only a process of this user is greeted. fd: handed over with the hello;
  // stays the caller's, open until this returns.
  void ByUnix(const std::string& name, int fd);
  // No Done after it.
  void Cancel();

 private:
  void SayHello();
  void HearVerdict();
  void End(std::optional<Verdict> verdict);

  boost::asio::io_context& io_;
  HelloBytes hello_;
  ReplyBytes reply_{};
  Done done_;
  boost::asio::ip::tcp::resolver resolver_;
  boost::asio::ip::tcp::socket tcp_;
  Stream stream_;
};

class Guest : public std::enable_shared_from_this<Guest> {
 public:
  // What was said, and the descriptor that came with it, if any; the callee takes what it wants.
  using Judge = std::function<Verdict(const Hello&, OwnFd&)>;
  // With the verdict that was given; kWelcome brings the connection. No verdict: it hung up before
  // it could be given one.
  using Done = std::function<void(std::optional<Verdict>, const Hello&, Stream)>;

  Guest(Stream stream, Judge judge, Done done);

  void Begin();
  // Waits no longer: Done, if it was not yet.
  void GiveUp();

 private:
  void Wait();
  void Read();
  void Answer();
  // What one deserves who says no more: kNotAHello, unless it could have become a hello.
  std::optional<Verdict> Unfinished() const;
  void End(std::optional<Verdict> verdict);

  Stream stream_;
  Judge judge_;
  Done done_;
  HelloBytes bytes_{};
  size_t heard_ = 0;
  OwnFd fd_;
  Hello hello_;
};

// Whether the process at the other end of a Unix socket runs as this one's user.
bool SameUser(Stream& stream);

}  // namespace conclave::services
