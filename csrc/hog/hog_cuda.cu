// HOG on CUDA. A thread walks down a group of kColumns neighbouring columns of one row of cells,
// its 3-row window rolling in registers, and adds each pixel to a histogram of its own: one column
// of `histograms[bin][thread]`, so that a warp's 32 additions, whatever their bins, go to 32 banks.
// Then the threads of a cell are added up in order and the bins normalised: nothing intermediate
// goes to memory, every output is written once, and nothing depends on the order of threads. Of the
// pixels, only a row above and a row below each row of cells are read by two blocks.
#include "common/cuda_launch.h"
#include "hog/hog_math.h"
#include "hog/hog_plan.h"

namespace ssl_fast::hog {

namespace {

constexpr int kThreads = 128;
constexpr int kWarp = 32;

// A kernel's view of the parameters, with the tables in its own precision.
struct Tables {
  float cotangents[kMaxTests];
  float gaussian[kMaxWindow];
};

template <typename Pixel>
struct Vector4;  // the type whose load brings four pixels
template <>
struct Vector4<uint8_t> {
  using Type = uchar4;
};
template <>
struct Vector4<float> {
  using Type = float4;
};
template <>
struct Vector4<Half> {
  using Type = ushort4;
};
template <>
struct Vector4<BFloat16> {
  using Type = ushort4;
};

// Neighbouring pixels of one row, from left - 1 to left + kColumns.
template <int kColumns>
struct Strip {
  float pixel[kColumns + 2];
};

// A group of columns: where its pixels are. Rows are `stride_h` apart.
template <typename Pixel>
struct Group {
  const Pixel* plane;
  int64_t row, left;           // first pixel
  bool active;                 // false: nothing to read
  bool left_edge, right_edge;  // the neighbour there is in no lane of this warp
};

template <typename Pixel, int kColumns>
__device__ __forceinline__ Strip<kColumns> load_strip(const Geometry& p, const Group<Pixel>& group,
                                                      int64_t y) {
  Strip<kColumns> strip;
  const Pixel* row = group.plane + reflect(y, p.height) * p.stride_h;
  if (group.active) {
    if constexpr (kColumns == 4) {
      using Vector = typename Vector4<Pixel>::Type;
      const Vector four = *reinterpret_cast<const Vector*>(row + group.left);
      Pixel pixels[4];
      memcpy(pixels, &four, sizeof four);
      for (int i = 0; i < 4; ++i) strip.pixel[i + 1] = to_float(pixels[i]);
    } else {
      strip.pixel[1] = to_float(row[group.left * p.stride_w]);
    }
  } else {
    for (int i = 0; i < kColumns; ++i) strip.pixel[i + 1] = 0.0f;
  }
  strip.pixel[0] = __shfl_up_sync(0xffffffffu, strip.pixel[kColumns], 1);
  strip.pixel[kColumns + 1] = __shfl_down_sync(0xffffffffu, strip.pixel[1], 1);
  if (group.active && group.left_edge)
    strip.pixel[0] = to_float(row[reflect(group.left - 1, p.width) * p.stride_w]);
  if (group.active && group.right_edge)
    strip.pixel[kColumns + 1] = to_float(row[reflect(group.left + kColumns, p.width) * p.stride_w]);
  return strip;
}

__device__ __forceinline__ float magnitude(Gradient<float> g) {
  const float squares = g.x * g.x + g.y * g.y;
  // No branch, unlike sqrtf; the bound keeps 0 from becoming 0 * inf.
  return squares * rsqrtf(fmaxf(squares, 1e-37f));
}

template <int kColumns>
__device__ __forceinline__ Gradient<float> gradient_at(const Strip<kColumns>& top,
                                                       const Strip<kColumns>& middle,
                                                       const Strip<kColumns>& bottom, int i) {
  const float rows[3][3] = {{top.pixel[i], top.pixel[i + 1], top.pixel[i + 2]},
                            {middle.pixel[i], middle.pixel[i + 1], middle.pixel[i + 2]},
                            {bottom.pixel[i], bottom.pixel[i + 1], bottom.pixel[i + 2]}};
  return sobel(rows[0], rows[1], rows[2]);
}

// kBins: nbins where it is known at compile time, else 0.
template <typename Pixel, int kColumns, int kBins>
__global__ void __launch_bounds__(kThreads)
    column_kernel(const Geometry p, const Plan plan, const Tables tables, int64_t lines) {
  SSL_FAST_DYNAMIC_SHARED(float, histograms);  // [nbins][kThreads]
  const int nbins = kBins ? kBins : p.nbins;
  const int thread = static_cast<int>(threadIdx.x);
  const int groups_per_cell = p.cell / kColumns;
  const int groups = kThreads / groups_per_cell * groups_per_cell;  // whole cells only
  const int64_t line_groups = plan.region_w * groups_per_cell;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups;

  Group<Pixel> group = {};
  const int64_t index = first + thread;
  const int64_t in_line = index % line_groups;
  group.active = thread < groups && index < lines * line_groups;
  if (group.active) {
    const Block block = block_at(p, plan, index / line_groups);
    group.active = block.wanted && block.row >= 0;
    group.plane =
        static_cast<const Pixel*>(p.images) + block.image * p.stride_b + block.channel * p.stride_c;
    group.row = block.row * p.cell;
    group.left = block.column * p.cell + in_line * kColumns;
  }
  const int lane = thread % kWarp;
  group.left_edge = lane == 0 || in_line == 0;
  group.right_edge = lane == kWarp - 1 || in_line == line_groups - 1 || thread == groups - 1;

  for (int b = 0; b < nbins; ++b) histograms[b * kThreads + thread] = 0.0f;
  float column_weight[kColumns];
  for (int i = 0; i < kColumns; ++i)
    column_weight[i] =
        p.window && group.active ? tables.gaussian[(group.left + i) % p.window] : 1.0f;

  Strip<kColumns> top = load_strip<Pixel, kColumns>(p, group, group.active ? group.row - 1 : 0);
  Strip<kColumns> middle = load_strip<Pixel, kColumns>(p, group, group.active ? group.row : 0);
  for (int y = 0; y < p.cell; ++y) {
    const Strip<kColumns> bottom =
        load_strip<Pixel, kColumns>(p, group, group.active ? group.row + y + 1 : 0);
    if (group.active) {
      const float row_weight = p.window ? tables.gaussian[(group.row + y) % p.window] : 1.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const Gradient<float> g = gradient_at(top, middle, bottom, i);
        const int bin = bin_of(g, nbins, tables.cotangents);
        histograms[bin * kThreads + thread] += row_weight * column_weight[i] * magnitude(g);
      }
    }
    top = middle;
    middle = bottom;
  }
  __syncthreads();

  // A thread for each cell, neighbours in memory by neighbouring threads.
  const int cells = groups / groups_per_cell;
  float* out = static_cast<float*>(p.out);
  for (int cell = thread; cell < cells; cell += kThreads) {
    for (int b = 0; b < nbins; ++b) {
      float* of_cell = histograms + b * kThreads + cell * groups_per_cell;
      float sum = of_cell[0];
      for (int i = 1; i < groups_per_cell; ++i) sum += of_cell[i];
      of_cell[0] = sum;
    }
    float squares = 0.0f;
    for (int b = 0; b < nbins; ++b) {
      const float value = histograms[b * kThreads + cell * groups_per_cell];
      squares += value * value;
    }
    const int64_t of_group = first + static_cast<int64_t>(cell) * groups_per_cell;
    if (of_group >= lines * line_groups) continue;
    const Block block = block_at(p, plan, of_group / line_groups);
    const int64_t column = block.column + of_group % line_groups / groups_per_cell;
    const float norm = sqrtf(squares);
    const float least_norm = static_cast<float>(p.eps);
    // A patch that is not in the image (an id out of range) is NaN: reading it would be worse.
    const float scale = block.row < 0 ? nanf("") : 1.0f / (norm < least_norm ? least_norm : norm);
    const int64_t at = output_offset(p, plan, block, block.row, column);
    for (int b = 0; b < nbins; ++b)
      out[at + b * bin_stride(p)] = scale * histograms[b * kThreads + cell * groups_per_cell];
  }
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
  for (int b = 0; b < p.nbins; ++b) histogram[b] = block.row < 0 ? nan("") : 0.0;
  if (block.wanted && block.row >= 0) cell_histogram(p, plane, block.row, column, histogram);
  const int64_t at = output_offset(p, plan, block, block.row, column);
  for (int b = 0; b < p.nbins; ++b)
    static_cast<Value*>(p.out)[at + b * bin_stride(p)] = static_cast<Value>(histogram[b]);
}

template <typename Pixel, int kColumns, int kBins>
void launch_columns(const Params& p, const Plan& plan, int64_t lines, void* stream) {
  Tables tables;
  for (int k = 0; k < p.nbins / 2; ++k) tables.cotangents[k] = static_cast<float>(p.cotangents[k]);
  for (int i = 0; i < p.window; ++i) tables.gaussian[i] = static_cast<float>(p.gaussian[i]);
  const int groups_per_cell = p.cell / kColumns;
  const int64_t groups = kThreads / groups_per_cell * groups_per_cell;
  const int64_t blocks = cover(lines * plan.region_w * groups_per_cell, groups);
  const size_t shared = sizeof(float) * kThreads * p.nbins;
  SSL_FAST_LAUNCH((column_kernel<Pixel, kColumns, kBins>), dim3(static_cast<unsigned>(blocks)),
                  dim3(kThreads), shared, stream, static_cast<const Geometry&>(p), plan, tables,
                  lines);
}

template <typename Pixel, typename Value>
void launch_cells(const Params& p, const Plan& plan, int64_t lines, void* stream) {
  const int64_t blocks = cover(lines * plan.region_w, kWarp);
  SSL_FAST_LAUNCH((cell_kernel<Pixel, Value>), dim3(static_cast<unsigned>(blocks)), dim3(kWarp), 0,
                  stream, p, plan, lines);
}

// Groups of four need four neighbours in one aligned load.
template <typename Pixel>
bool loads_four(const Params& p) {
  const auto aligned = [](int64_t elements) { return elements % 4 == 0; };
  return p.cell % 4 == 0 && p.stride_w == 1 && aligned(p.stride_h) && aligned(p.stride_c) &&
         aligned(p.stride_b) && reinterpret_cast<uintptr_t>(p.images) % (4 * sizeof(Pixel)) == 0;
}

template <typename Pixel>
void launch_pixels(const Params& p, const Plan& plan, int64_t lines, void* stream) {
  const bool four = loads_four<Pixel>(p);
  if (p.cell / (four ? 4 : 1) > kThreads) return launch_cells<Pixel, float>(p, plan, lines, stream);
  if (p.nbins == kFastBins) {
    if (four) return launch_columns<Pixel, 4, kFastBins>(p, plan, lines, stream);
    return launch_columns<Pixel, 1, kFastBins>(p, plan, lines, stream);
  }
  if (four) return launch_columns<Pixel, 4, 0>(p, plan, lines, stream);
  return launch_columns<Pixel, 1, 0>(p, plan, lines, stream);
}

}  // namespace

void hog_cuda(const Params& p, void* stream) {
  const Plan plan = make_line_plan(p);
  const int64_t lines = plan.units;
  SSL_FAST_EXPECT_WRITTEN(static_cast<float*>(p.out), p.batch * p.slots * p.channels * p.nbins *
                                                          bin_stride(p) *
                                                          (p.dtype == DType::kFloat64 ? 2 : 1));
  switch (p.dtype) {
    case DType::kUInt8:
      return launch_pixels<uint8_t>(p, plan, lines, stream);
    case DType::kFloat16:
      return launch_pixels<Half>(p, plan, lines, stream);
    case DType::kBFloat16:
      return launch_pixels<BFloat16>(p, plan, lines, stream);
    case DType::kFloat32:
      return launch_pixels<float>(p, plan, lines, stream);
    case DType::kFloat64:
      return launch_cells<double, double>(p, plan, lines, stream);
  }
}

}  // namespace ssl_fast::hog
