// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3", 2011):
// random words as a function of a counter and a key, so that no sampler keeps a state and the same
// numbers come out on every device, in any order.
//
// Layout of every sampler of ssl_fast:
//   counter = {sample id, low; sample id, high; draw, counted from 0; stream, one for each sampler}
//   key     = {seed, low; seed, high}
// ssl_fast/random.py has the same function and all streams.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace ssl_fast {

struct Philox {
  uint32_t word[4];
};

enum Stream : uint32_t {
  kBlockMaskStream = 1,
  kRandomMaskStream = 2,
  kIbotMaskStream = 3,
  kCubeMaskStream = 4,
  kMultiblockMaskStream = 5
};

constexpr int kPhiloxRounds = 10;

SSL_HD void philox_round(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d, uint32_t key_low,
                         uint32_t key_high) {
  const uint64_t left = uint64_t{0xD2511F53u} * a, right = uint64_t{0xCD9E8D57u} * c;
  a = static_cast<uint32_t>(right >> 32) ^ b ^ key_low;
  b = static_cast<uint32_t>(right);
  c = static_cast<uint32_t>(left >> 32) ^ d ^ key_high;
  d = static_cast<uint32_t>(left);
}

SSL_HD void philox_next_key(uint32_t& low, uint32_t& high) {
  low += 0x9E3779B9u;
  high += 0xBB67AE85u;
}

SSL_HD Philox philox4x32(Philox counter, uint32_t key_low, uint32_t key_high) {
  uint32_t* w = counter.word;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    philox_round(w[0], w[1], w[2], w[3], key_low, key_high);
    philox_next_key(key_low, key_high);
  }
  return counter;
}

// Four random words for the `draw`-th decision on a sample.
SSL_HD Philox draw_words(uint64_t seed, uint64_t sample_id, uint32_t draw, Stream stream) {
  const uint32_t id_low = static_cast<uint32_t>(sample_id);
  const uint32_t id_high = static_cast<uint32_t>(sample_id >> 32);
  return philox4x32({{id_low, id_high, draw, stream}}, static_cast<uint32_t>(seed),
                    static_cast<uint32_t>(seed >> 32));
}

// A word to 0 .. count - 1, uniform up to count / 2^32.
SSL_HD uint32_t scale_to(uint32_t word, uint32_t count) {
  return static_cast<uint32_t>(uint64_t{word} * count >> 32);
}

}  // namespace ssl_fast
