#pragma once
// What the parity tests share: devices of every level, random tensors, and how a type rounds, all
// written the slow way.

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "worker/device/device.h"

namespace conclave::worker::parity {

struct LevelCase {
  std::string level;
  DType activations = DType::kF32;
};
void PrintTo(const LevelCase& which, std::ostream* out);
std::string CaseName(const testing::TestParamInfo<LevelCase>& info);

// Every level of this CPU with every activation type.
std::vector<LevelCase> AllCases();

std::unique_ptr<Device> MakeDevice(const LevelCase& which, int threads = 1, int32_t max_rows = 512);

const char* NameOf(DType type);

// x as the type holds it, to nearest even: by comparing with neighbours in double, not by bits.
float Rounded(float x, DType type);

// Values and the bytes that hold them in a type, `shift` bytes off any alignment.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t cols, DType type, uint64_t seed, double spread = 1.0, int shift = 2);
  Weight weight() const { return {bytes_.data() + shift_, type_, rows_, cols_}; }
  double at(int64_t r, int64_t c) const { return static_cast<double>(values_[Index(r, c)]); }

 private:
  size_t Index(int64_t r, int64_t c) const { return static_cast<size_t>(r * cols_ + c); }
  int64_t rows_, cols_;
  DType type_;
  int shift_;
  std::vector<float> values_;
  std::vector<char> bytes_;
};

// Rows of floats with a few unused columns between them.
class Batch {
 public:
  Batch(int64_t rows, int64_t cols, int64_t gap = 3);
  Batch(int64_t rows, int64_t cols, uint64_t seed, double spread);

  Rows rows() { return {data_.data(), rows_, cols_, stride_}; }
  ConstRows rows() const { return {data_.data(), rows_, cols_, stride_}; }
  Rows Part(int64_t first, int64_t count) {
    return {data_.data() + first * stride_, count, cols_, stride_};
  }
  ConstRows Part(int64_t first, int64_t count) const {
    return {data_.data() + first * stride_, count, cols_, stride_};
  }
  float& at(int64_t r, int64_t c) { return data_[static_cast<size_t>(r * stride_ + c)]; }
  float at(int64_t r, int64_t c) const { return data_[static_cast<size_t>(r * stride_ + c)]; }

 private:
  int64_t rows_, cols_, stride_;
  std::vector<float> data_;
};

// The same bits in every element.
testing::AssertionResult SameBits(const Batch& a, const Batch& b);

}  // namespace conclave::worker::parity
