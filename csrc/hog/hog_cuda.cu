// HOG on CUDA. A thread walks down a group of kColumns neighbouring columns of one row of cells,
// its 3-row window rolling in registers and the next row already under way, and adds each pixel to
// a histogram of its own: one column of `histograms[bin][thread]`, so that a warp's 32 additions,
// whatever their bins, go to 32 banks. Then the threads of a cell are added up in order and the
// bins normalised: nothing intermediate goes to memory, every output is written once, and nothing
// depends on the order of threads. Of the pixels, only a row above and a row below each row of
// cells are read by two blocks. Instructions are the limit, about 30 for a pixel.
#include "hog/hog_columns.h"
#include "hog/hog_place.h"

#include <cstring>

namespace ssl_fast::hog {

namespace {

constexpr int kThreads = 128;
constexpr int kWarp = 32;

// The tables in the kernel's own precision.
struct Tables {
  float cotangents[kMaxTests];
  float gaussian[kMaxWindow];
};

// Sums of a cell's groups, divided by their norm: a thread for every groups_per_cell-th bin.
// Unless a group is a cell, all threads of the block come here.
template <int kBins, int kGroupsPerCell>
__device__ __forceinline__ void write_cell(const Geometry& p, const Place& place, bool exists,
                                           int groups_per_cell, float* histograms) {
  const int nbins = kBins ? kBins : p.nbins;
  const int groups = kGroupsPerCell ? kGroupsPerCell : groups_per_cell;
  const int part = static_cast<int>(place.in_cell);
  float* of_cell = histograms + (static_cast<int>(threadIdx.x) - part);
  if constexpr (kGroupsPerCell != 1) {
    __syncthreads();
    for (int b = part; exists && b < nbins; b += groups) {
      float sum = of_cell[b * kThreads];
      for (int i = 1; i < groups; ++i) sum += of_cell[b * kThreads + i];
      of_cell[b * kThreads] = sum;
    }
    __syncthreads();
  }
  if (!exists) return;
  float squares = 0.0f;
#pragma unroll(kBins ? kBins : 1)
  for (int b = 0; b < nbins; ++b)
    squares = fmaf(of_cell[b * kThreads], of_cell[b * kThreads], squares);
  const float norm = sqrtf(squares), least_norm = static_cast<float>(p.eps);
  const float scale = 1.0f / (norm < least_norm ? least_norm : norm);
  float* out = static_cast<float*>(p.out) + place.out;
  const int64_t stride = bin_stride(p);
  // Of patches that the mask leaves out, and of those that are not in the image.
  const float missing = place.known ? 0.0f : nanf("");
#pragma unroll(kBins ? kBins : 1)
  for (int b = part; b < nbins; b += groups) {
    const float value = scale * of_cell[b * kThreads];
    out[(nbins - 1 - b) * stride] = place.wanted && place.known ? value : missing;
  }
}

// kBins, kCell: nbins and cell where they are known at compile time, else 0. kShuffle: whether
// neighbours come from other lanes, where these have them, or all from memory.
template <typename Pixel, int kColumns, int kBins, int kCell, bool kWeighted, bool kShuffle,
          int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    column_kernel(const Geometry p, const Numbering numbering, const Tables tables, bool by_patch) {
  SSL_FAST_DYNAMIC_SHARED(float, histograms);  // [nbins, from the last to the first][kThreads]
  const int nbins = kBins ? kBins : p.nbins;
  const int cell = kCell ? kCell : p.cell;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int groups_per_cell = kCell ? kCell / kColumns : numbering.groups_per_cell.value;
  // Whole cells only.
  const int groups = kCell ? kThreads : kThreads / groups_per_cell * groups_per_cell;
  const uint32_t index = blockIdx.x * static_cast<uint32_t>(groups) + thread;
  const bool exists = (kCell || thread < groups) && index < numbering.groups;
  const Place place = place_of(p, numbering, by_patch, exists ? index : 0);
  const bool active = exists && place.wanted && place.known;

  for (int b = 0; b < nbins; ++b) histograms[b * kThreads + thread] = 0.0f;
  float* histogram = histograms + thread;
  // A warp with nothing to do is through; in others the idle lanes read some pixels that exist.
  if (__any_sync(kWholeWarp, active)) {
    const uint32_t x = place.column * cell + place.in_cell * kColumns, y = place.row * cell;
    const uint32_t width = static_cast<uint32_t>(p.width), height = static_cast<uint32_t>(p.height);
    Group<Pixel> group;
    group.stride_h = p.stride_h, group.stride_w = p.stride_w;
    group.left = x == 0 ? 1 : -1;
    group.right = x + kColumns == width ? kColumns - 2 : kColumns;
    group.asks_left = lane == 0 || place.in_line == 0;
    group.asks_right = lane == kWarp - 1 || place.in_line == numbering.line_groups.value - 1 ||
                       thread == groups - 1;
    group.pixels = static_cast<const Pixel*>(p.images) + place.image * p.stride_b +
                   place.channel * p.stride_c + y * p.stride_h + x * p.stride_w;
    float column_weights[kColumns];
    uint32_t of_row = 0;
    if constexpr (kWeighted) {
      uint32_t of_column = numbering.window.remainder(x);
      of_row = numbering.window.remainder(y);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        column_weights[i] = tables.gaussian[of_column];
        of_column = of_column + 1 == numbering.window.value ? 0 : of_column + 1;
      }
    }

    const auto load = [&](const Pixel* row) {
      return load_row<Pixel, kColumns, kShuffle>(group, row);
    };
    const auto converted = [&](const RawRow<Pixel, kColumns>& raw) {
      return convert<Pixel, kColumns, kShuffle>(group, raw);
    };
    const Pixel* row = group.pixels;
    const auto raw_top = load(y == 0 ? row + p.stride_h : row - p.stride_h);
    const auto raw_middle = load(row);
    // Below the image is what is above its last row.
    const int64_t last = y + cell == height ? -p.stride_h : p.stride_h;
    row += cell == 1 ? last : p.stride_h;
    auto raw_next = load(row);
    Row<kColumns> top = converted(raw_top), middle = converted(raw_middle);
    const auto walk = [&](int i) {
      const Row<kColumns> bottom = converted(raw_next);
      if (i + 1 < cell) {
        row += i + 2 == cell ? last : p.stride_h;
        raw_next = load(row);
      }
      float row_weight = 1.0f;
      if constexpr (kWeighted) {
        row_weight = tables.gaussian[of_row];
        of_row = of_row + 1 == numbering.window.value ? 0 : of_row + 1;
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const Gradient<float> g = gradient_at(top, middle, bottom, j);
        float* bin = histogram + reversed_bin_of<kBins>(g, nbins, tables.cotangents) * kThreads;
        if constexpr (kWeighted)
          *bin = fmaf(column_weights[j] * magnitude(g), row_weight, *bin);
        else
          *bin += magnitude(g);
      }
      top = middle;
      middle = bottom;
    };
    if constexpr (kCell != 0) {
#pragma unroll
      for (int i = 0; i < kCell; ++i) walk(i);
    } else {
      for (int i = 0; i < cell; ++i) walk(i);
    }
  }
  write_cell<kBins, kCell / kColumns>(p, place, exists, groups_per_cell, histograms);
}

// A thread for each cell: float64, and cells too wide for a block of column groups.
template <typename Pixel, typename Value>
__global__ void cell_kernel(const Params p, const Plan plan, int64_t lines) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= lines * plan.region_w) return;
  const Block block = block_at(p, plan, index / plan.region_w);
  const int64_t column = block.column + index % plan.region_w;
  const Pixel* plane =
      static_cast<const Pixel*>(p.images) + block.image * p.stride_b + block.channel * p.stride_c;
  double histogram[kMaxBins];
  for (int b = 0; b < p.nbins; ++b) histogram[b] = block.known ? 0.0 : nan("");
  if (block.wanted && block.known) cell_histogram(p, plane, block.row, column, histogram);
  const int64_t at = output_offset(p, plan, block, block.row, column);
  for (int b = 0; b < p.nbins; ++b)
    static_cast<Value*>(p.out)[at + b * bin_stride(p)] = static_cast<Value>(histogram[b]);
}

template <typename Pixel, int kColumns, int kBins, int kCell, bool kWeighted, bool kShuffle,
          int kBlocks>
void launch_columns(const Params& p, const Plan& plan, void* stream) {
  const Numbering numbering(p, plan, kColumns);
  Tables tables;
  for (int k = 0; k < p.nbins / 2; ++k) tables.cotangents[k] = static_cast<float>(p.cotangents[k]);
  for (int i = 0; i < p.window; ++i) tables.gaussian[i] = static_cast<float>(p.gaussian[i]);
  const int groups_per_cell = p.cell / kColumns;
  const int64_t groups = kThreads / groups_per_cell * groups_per_cell;
  const size_t shared = sizeof(float) * kThreads * p.nbins;
  SSL_FAST_LAUNCH((column_kernel<Pixel, kColumns, kBins, kCell, kWeighted, kShuffle, kBlocks>),
                  dim3(static_cast<unsigned>(cover(numbering.groups, groups))), dim3(kThreads),
                  shared, stream, static_cast<const Geometry&>(p), numbering, tables,
                  plan.by_patch);
}

template <typename Pixel, typename Value>
void launch_cells(const Params& p, const Plan& plan, int64_t lines, void* stream) {
  const int64_t blocks = cover(lines * plan.region_w, kWarp);
  SSL_FAST_LAUNCH((cell_kernel<Pixel, Value>), dim3(static_cast<unsigned>(blocks)), dim3(kWarp), 0,
                  stream, p, plan, lines);
}

// Groups of several columns need as many neighbours in aligned loads, of 16 bytes at most.
template <typename Pixel, int kColumns>
bool loads_together(const Params& p) {
  constexpr int64_t kBytes = kColumns * sizeof(Pixel), kVector = kBytes < 16 ? kBytes : 16;
  const auto aligned = [](int64_t elements) { return elements * sizeof(Pixel) % kVector == 0; };
  return p.cell % kColumns == 0 && p.stride_w == 1 && aligned(p.stride_h) && aligned(p.stride_c) &&
         aligned(p.stride_b) && reinterpret_cast<uintptr_t>(p.images) % kVector == 0;
}

// Nine bins of cells of eight, as MaskFeat has them. Neighbours are loaded, not shuffled: measured.
template <typename Pixel, int kColumns, int kBlocks>
void launch_usual(const Params& p, const Plan& plan, void* stream) {
  if (p.window)
    launch_columns<Pixel, kColumns, kFastBins, kFastCell, true, false, kBlocks>(p, plan, stream);
  else
    launch_columns<Pixel, kColumns, kFastBins, kFastCell, false, false, kBlocks>(p, plan, stream);
}

template <typename Pixel, int kColumns, int kBins>
void launch_any(const Params& p, const Plan& plan, void* stream) {
  if (p.window)
    launch_columns<Pixel, kColumns, kBins, 0, true, true, 1>(p, plan, stream);
  else
    launch_columns<Pixel, kColumns, kBins, 0, false, true, 1>(p, plan, stream);
}

template <typename Pixel>
void launch_pixels(const Params& p, const Plan& plan, void* stream) {
  const bool four = loads_together<Pixel, 4>(p), eight = loads_together<Pixel, 8>(p);
  const int columns = four ? 4 : 1;
  if (p.cell / columns > kThreads || !Numbering::holds(p, plan, columns))
    return launch_cells<Pixel, float>(p, plan, plan.units, stream);
  if (four && p.nbins == kFastBins && p.cell == kFastCell) {
    if (eight) return launch_usual<Pixel, 8, 6>(p, plan, stream);
    return launch_usual<Pixel, 4, 8>(p, plan, stream);
  }
  if (p.nbins == kFastBins) {
    if (four) return launch_any<Pixel, 4, kFastBins>(p, plan, stream);
    return launch_any<Pixel, 1, kFastBins>(p, plan, stream);
  }
  if (four) return launch_any<Pixel, 4, 0>(p, plan, stream);
  launch_any<Pixel, 1, 0>(p, plan, stream);
}

}  // namespace

void hog_cuda(const Params& p, void* stream) {
  const Plan plan = make_line_plan(p);
  SSL_FAST_EXPECT_WRITTEN(static_cast<float*>(p.out), p.batch * p.slots * p.channels * p.nbins *
                                                          bin_stride(p) *
                                                          (p.dtype == DType::kFloat64 ? 2 : 1));
  switch (p.dtype) {
    case DType::kUInt8:
      return launch_pixels<uint8_t>(p, plan, stream);
    case DType::kFloat16:
      return launch_pixels<Half>(p, plan, stream);
    case DType::kBFloat16:
      return launch_pixels<BFloat16>(p, plan, stream);
    case DType::kFloat32:
      return launch_pixels<float>(p, plan, stream);
    case DType::kFloat64:
      return launch_cells<double, double>(p, plan, plan.units, stream);
  }
}

}  // namespace ssl_fast::hog
