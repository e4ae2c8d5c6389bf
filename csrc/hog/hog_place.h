// Where the threads of hog_cuda.cu work: 32-bit arithmetic with divisors known at launch, as a
// thread has but tens of pixels, and a 64-bit division takes as long as several of them.
#pragma once

#include "common/cuda_launch.h"
#include "hog/hog_plan.h"

namespace ssl_fast::hog {

// Division of 0 .. 2^31 - 1 by multiplication: Granlund and Montgomery, "Division by invariant
// integers using multiplication" (1994).
struct Divisor {
  uint32_t value, factor, shift;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(static_cast<uint32_t>(divisor)), shift(0) {
    while ((uint64_t{1} << shift) < value) ++shift;
    const uint64_t excess = (uint64_t{1} << shift) - value;
    factor = static_cast<uint32_t>((excess << 32) / value + 1);
  }
  __device__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, factor) + n) >> shift; }
  // Leaves the quotient in n, returns the remainder.
  __device__ uint32_t divide(uint32_t& n) const {
    const uint32_t dividend = n;
    n = quotient(dividend);
    return dividend - n * value;
  }
  __device__ uint32_t remainder(uint32_t n) const { return divide(n); }
};

// Groups of columns are numbered along a row of cells of a region (hog_plan.h), then over rows,
// channels, and regions.
struct Numbering {
  uint32_t groups, patches;
  Divisor line_groups, groups_per_cell, bands, channels, slots, patches_per_row, patch_h, patch_w;
  Divisor window;

  Numbering(const Geometry& p, const Plan& plan, int columns)
      : groups(static_cast<uint32_t>(plan.units * plan.region_w * (p.cell / columns))),
        patches(static_cast<uint32_t>(patches_per_image(p))),
        line_groups(plan.region_w * (p.cell / columns)),
        groups_per_cell(p.cell / columns),
        bands(plan.bands),
        channels(p.channels),
        slots(p.slots),
        patches_per_row(hog::patches_per_row(p)),
        patch_h(p.patch_h),
        patch_w(p.patch_w),
        window(p.window ? p.window : 1) {}

  static int64_t patches_per_image(const Geometry& p) {
    return hog::patches_per_row(p) * (p.height / (p.cell * p.patch_h));
  }
  static bool holds(const Geometry& p, const Plan& plan, int columns) {
    constexpr int64_t kLimit = int64_t{1} << 31;
    return plan.units * plan.region_w * (p.cell / columns) < kLimit && p.height < kLimit &&
           p.width < kLimit && patches_per_image(p) < kLimit;
  }
};

// Where a group is.
struct Place {
  uint32_t image, channel;
  uint32_t in_line, in_cell;  // groups before it
  uint32_t row, column;       // its cell in the image
  int64_t out;                // its cell in the output
  bool wanted;                // false: a patch that the mask leaves out
  bool known;                 // false: a patch that is not in the image; stands at patch 0
};

__device__ __forceinline__ Place place_of(const Geometry& p, const Numbering& n, bool by_patch,
                                          uint32_t group) {
  Place place;
  uint32_t rest = group;
  place.in_line = n.line_groups.divide(rest);
  uint32_t cell = place.in_line;
  place.in_cell = n.groups_per_cell.divide(cell);
  const uint32_t band = n.bands.divide(rest);
  place.channel = n.channels.divide(rest);
  place.wanted = place.known = true;
  uint32_t slot, row_in_patch, column_in_patch;
  if (by_patch) {
    place.wanted = p.mask == nullptr || p.mask[rest] != 0;
    const uint32_t entry = rest;
    slot = n.slots.divide(rest);
    int64_t listed = slot;
    if (p.ids) listed = p.ids[entry];
    place.known = listed >= 0 && listed < n.patches;
    uint32_t patch_row = place.known ? static_cast<uint32_t>(listed) : 0;
    const uint32_t patch_column = n.patches_per_row.divide(patch_row);
    row_in_patch = band, column_in_patch = cell;
    place.row = patch_row * n.patch_h.value + band;
    place.column = patch_column * n.patch_w.value + cell;
  } else {
    place.row = band, place.column = cell;
    uint32_t patch_row = band, patch_column = cell;
    row_in_patch = n.patch_h.divide(patch_row);
    column_in_patch = n.patch_w.divide(patch_column);
    slot = patch_row * n.patches_per_row.value + patch_column;
  }
  place.image = rest;
  place.out = cell_offset(p, place.image, slot, place.channel, row_in_patch, column_in_patch);
  return place;
}

}  // namespace ssl_fast::hog
