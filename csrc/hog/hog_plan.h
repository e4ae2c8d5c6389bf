// How the CPU kernel cuts the work: blocks of a few rows of cells that fit the L1 cache once
// staged.
#pragma once

#include "hog/hog_math.h"

namespace ssl_fast::hog {

// The vector path keeps the histograms of eight pixels' width in registers, for this case only;
// every other count of bins or cell size takes the general path.
constexpr int kFastBins = 9;
constexpr int kFastCell = 8;

constexpr int kMargin = 16;         // staged elements left of a row's first pixel: keeps it aligned
constexpr int kSlack = 48;          // staged elements beyond the last: halo and a whole vector
constexpr int kStageColumns = 512;  // pixels of a row staged at most
constexpr int kStageSize = 10 * (kMargin + kStageColumns + kSlack);
constexpr int kMaxHistogram = 8192;  // bins of all cells

struct Plan {
  bool fast, by_patch;
  int64_t region_h, region_w;  // cells of a region: a patch where patches are chosen, or an image
  int64_t band, columns;       // cells of a block
  int64_t bands, chunks;       // blocks of a region
  int64_t units;               // blocks in all
};

SSL_HD int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SSL_HD int64_t cover(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Blocks of `band` rows of `columns` cells; of one whole row of its region, unless said otherwise.
SSL_HD Plan make_line_plan(const Geometry& p, int64_t band = 1, int64_t columns = 0) {
  Plan plan;
  plan.fast = false;
  plan.by_patch = p.ids != nullptr || p.mask != nullptr;
  plan.region_h = plan.by_patch ? p.patch_h : p.height / p.cell;
  plan.region_w = plan.by_patch ? p.patch_w : p.width / p.cell;
  plan.band = least(band, plan.region_h);
  plan.columns = columns ? least(columns, plan.region_w) : plan.region_w;
  plan.bands = cover(plan.region_h, plan.band);
  plan.chunks = cover(plan.region_w, plan.columns);
  plan.units = p.batch * p.channels * (plan.by_patch ? p.slots : 1) * plan.bands * plan.chunks;
  return plan;
}

SSL_HD Plan make_plan(const Geometry& p) {
  const bool fast = p.nbins == kFastBins && p.cell == kFastCell && p.dtype != DType::kFloat64;
  if (!fast) return make_line_plan(p, 1, kMaxHistogram / p.nbins);
  const int64_t columns = least(make_line_plan(p).region_w, kStageColumns / kFastCell);
  const int64_t pitch = kMargin + columns * kFastCell + kSlack;
  Plan plan = make_line_plan(p, (kStageSize / pitch - 2) / kFastCell, columns);
  plan.fast = true;
  return plan;
}

// One block: which image and channel, which cells of it, and which patch of the output.
struct Block {
  int64_t image, channel;
  int64_t slot;         // where patches are chosen, else unused
  bool wanted;          // false: a patch that the mask leaves out
  bool known;           // false: a patch that is not in the image; stands at patch 0
  int64_t row, column;  // first cell, in the image
  int64_t rows, columns;
};

SSL_HD Block block_at(const Geometry& p, const Plan& plan, int64_t unit) {
  Block block;
  const int64_t chunk = unit % plan.chunks;
  unit /= plan.chunks;
  const int64_t band = unit % plan.bands;
  unit /= plan.bands;
  block.channel = unit % p.channels;
  unit /= p.channels;
  const int64_t slots = plan.by_patch ? p.slots : 1;
  block.slot = unit % slots;
  block.image = unit / slots;
  const int64_t entry = block.image * slots + block.slot;
  block.wanted = p.mask == nullptr || p.mask[entry] != 0;
  int64_t patch = p.ids ? p.ids[entry] : block.slot;
  const int64_t across = patches_per_row(p);
  const int64_t patches = across * (p.height / (p.cell * p.patch_h));
  block.known = patch >= 0 && patch < patches;
  if (!block.known) patch = 0;
  block.row = band * plan.band + (plan.by_patch ? patch / across * p.patch_h : 0);
  block.column = chunk * plan.columns + (plan.by_patch ? patch % across * p.patch_w : 0);
  block.rows = least(plan.band, plan.region_h - band * plan.band);
  block.columns = least(plan.columns, plan.region_w - chunk * plan.columns);
  return block;
}

// The same cell's place in the output.
SSL_HD int64_t output_offset(const Geometry& p, const Plan& plan, const Block& block, int64_t row,
                             int64_t column) {
  const int64_t slot =
      plan.by_patch ? block.slot : row / p.patch_h * patches_per_row(p) + column / p.patch_w;
  return cell_offset(p, block.image, slot, block.channel, row % p.patch_h, column % p.patch_w);
}

}  // namespace ssl_fast::hog
