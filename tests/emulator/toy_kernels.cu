// Small kernels that try the emulator, and a program that runs one of them, or one with a planted
// fault: `toy CASE SEED` prints the values computed, or the error (exit status 3). Valid CUDA as
// well, except for what only the emulator can survive.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/cuda_launch.h"
#include "common/host_device.h"
#include "planted_faults.h"
#include "toy_buffer.h"

namespace {

template <class T, int N>
__global__ void __launch_bounds__(N) block_sum(const T* __restrict__ in, int count, T* out) {
  SSL_FAST_SHARED(T[N], partial);
  const int t = static_cast<int>(threadIdx.x);
  T sum = 0;
  for (int i = t + static_cast<int>(blockIdx.x) * N; i < count; i += N * gridDim.x) sum += in[i];
  partial[t] = sum;
  __syncthreads();
  for (int half = N / 2; half > 0; half /= 2) {
    if (t < half) partial[t] += partial[t + half];
    __syncthreads();
  }
  if (t == 0) out[blockIdx.x] = partial[0];
}

template <class T, int N>
std::vector<double> run_block_sum() {
  Buffer<T> in(1000), out(3);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 3);
  SSL_FAST_LAUNCH((block_sum<T, N>), 3, N, 0, nullptr, iota(in, 1000), 1000, out.get());
  return out.values();
}

// out: [4 kinds][6 widths][32 lanes]
template <class T>
__global__ void shuffles(T scale, T* out) {
  const int lane = threadIdx.x;
  const T mine = scale * T(lane + 1);
  for (int w = 0; w < 6; ++w) {
    const int width = 1 << w;
    T* row = out + w * 32 + lane;
    row[0] = __shfl_sync(kFullWarp, mine, lane * 5 + 3, width);
    row[192] = __shfl_up_sync(kFullWarp, mine, 3, width);
    row[384] = __shfl_down_sync(kFullWarp, mine, 3, width);
    row[576] = __shfl_xor_sync(kFullWarp, mine, 5, width);
  }
}

// The scale sets bits in the upper half of 64-bit values.
template <class T>
std::vector<double> run_shuffles() {
  Buffer<T> out(768);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 768);
  SSL_FAST_LAUNCH(shuffles<T>, 1, 32, 0, nullptr, T(sizeof(T) == 8 ? 1e12 : 1), out.get());
  return out.values();
}

// The two halves of a warp go separate ways; the last warp of the block has 16 lanes only.
__global__ void partial_warps(int* out) {
  const int lane = threadIdx.x % 32;
  int sum = lane;
  if (lane < 16) {
    for (int i = 8; i > 0; i /= 2) sum += __shfl_xor_sync(0x0000FFFF, sum, i);
  } else {
    for (int i = 8; i > 0; i /= 2) sum += __shfl_xor_sync(0xFFFF0000, sum, i);
  }
  __syncwarp();
  out[threadIdx.x] = sum + 1000 * __popc(__ballot_sync(kFullWarp, 1));
}

std::vector<double> run_partial_warps() {
  Buffer<int> out(48);
  SSL_FAST_LAUNCH(partial_warps, 1, 48, 0, nullptr, out.get());
  return out.values();
}

__global__ void votes(unsigned* out) {
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  unsigned* mine = out + t * 8;
  mine[0] = __ballot_sync(kFullWarp, lane % 3 == warp);
  mine[1] = __any_sync(kFullWarp, t == 40);
  mine[2] = __all_sync(kFullWarp, t != 40);
  mine[3] = __syncthreads_count(t % 5 == 0);
  mine[4] = __syncthreads_or(t == 63);
  mine[5] = __syncthreads_or(t == 64);
  mine[6] = __syncthreads_and(t < 64);
  mine[7] = __syncthreads_and(t < 63);
}

std::vector<double> run_votes() {
  Buffer<unsigned> out(64 * 8);
  SSL_FAST_LAUNCH(votes, 1, 64, 0, nullptr, out.get());
  return out.values();
}

__global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d) {
  SSL_FAST_SHARED(int, in_block);
  const int t = threadIdx.x + blockIdx.x * blockDim.x;
  if (threadIdx.x == 0) in_block = 0;
  __syncthreads();
  atomicAdd(&in_block, 1);
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(i, in_block);
  atomicMax(i + 1, t);
  atomicMin(i + 2, -t);
  if (t == 77) atomicExch(i + 3, t);
  if (atomicCAS(i + 4, 0, t + 1) == 0) atomicAdd(i + 5, 1);
  atomicAdd(u, 3u);
  atomicOr(u + 1, 1u << t % 32);
  atomicAnd(u + 2, ~(1u << t % 32));
  atomicAdd(l, 1ULL << 32);
  atomicMax(l + 1, 5ULL << 40);
  atomicAdd(f, 0.5f);
  if (t == 3) atomicExch(f + 1, 2.5f);
  atomicAdd(d, 0.25);
}

std::vector<double> run_atomics() {
  Buffer<int> i(6);
  Buffer<unsigned> u(3);
  Buffer<unsigned long long> l(2);
  Buffer<float> f(2);
  Buffer<double> d(1);
  u[2] = kFullWarp;
  SSL_FAST_LAUNCH(atomics, 2, 64, 0, nullptr, i.get(), u.get(), l.get(), f.get(), d.get());
  std::vector<double> all = i.values();
  for (const std::vector<double>& v : {u.values(), l.values(), f.values(), d.values()}) {
    all.insert(all.end(), v.begin(), v.end());
  }
  all[4] = all[4] > 0;  // which thread came first is open
  return all;
}

template <class T>
__global__ void transpose(const T* in, int rows, int columns, T* out) {
  SSL_FAST_SHARED(T[8][9], tile);
  SSL_FAST_DYNAMIC_SHARED(T, row_sums);
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * 8 + y, column = blockIdx.x * 8 + x;
  tile[y][x] = row < rows && column < columns ? in[row * columns + column] : T(0);
  __syncthreads();
  if (x == 0) row_sums[y] = T(0);
  __syncthreads();
  atomicAdd(&row_sums[y], tile[y][x]);
  __syncthreads();
  const int to_row = blockIdx.x * 8 + y, to_column = blockIdx.y * 8 + x;
  if (to_row < columns && to_column < rows) {
    out[to_row * rows + to_column] = tile[x][y] + 1000 * row_sums[x];
  }
}

std::vector<double> run_transpose() {
  const int rows = 13, columns = 21;
  Buffer<int> in(rows * columns), out(rows * columns);
  const dim3 grid((columns + 7) / 8, (rows + 7) / 8), block(8, 8);
  SSL_FAST_EXPECT_WRITTEN(out.get(), size_t(rows) * columns);
  SSL_FAST_LAUNCH(transpose<int>, grid, block, 8 * sizeof(int), nullptr, iota(in, rows * columns),
                  rows, columns, out.get());
  return out.values();
}

__global__ void coordinates(int* out) {
  const int x = threadIdx.x + blockIdx.x * blockDim.x, y = threadIdx.y + blockIdx.y * blockDim.y;
  const int z = threadIdx.z + blockIdx.z * blockDim.z;
  const int width = gridDim.x * blockDim.x, height = gridDim.y * blockDim.y;
  out[(z * height + y) * width + x] = x + 100 * y + 10000 * z;
}

std::vector<double> run_coordinates() {
  Buffer<int> out(6 * 6 * 8);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 6 * 6 * 8);
  SSL_FAST_LAUNCH(coordinates, dim3(3, 2, 4), dim3(2, 3, 2), 0, nullptr, out.get());
  return out.values();
}

SSL_HD float4 scaled(float4 v, float s) { return make_float4(v.x * s, v.y * s, v.z * s, v.w * s); }

__global__ void vectors(const uchar4* in, float4* out, double2* sums, int2* sizes) {
  const uchar4 pixel = __ldg(in + threadIdx.x);
  out[threadIdx.x] = scaled(make_float4(pixel.x, pixel.y, pixel.z, pixel.w), 0.5f);
  sums[threadIdx.x] = make_double2(pixel.x + pixel.y, pixel.z + pixel.w);
  sizes[threadIdx.x] = make_int2(sizeof(float3) + sizeof(short2), alignof(float4) + sizeof(uint4));
}

std::vector<double> run_vectors() {
  Buffer<uchar4> in(4, make_uchar4(1, 2, 3, 255));
  Buffer<float4> out(4);
  Buffer<double2> sums(4);
  Buffer<int2> sizes(4);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 4);
  SSL_FAST_LAUNCH(vectors, 1, 4, 0, nullptr, in.get(), out.get(), sums.get(), sizes.get());
  Buffer<int>(1).values();  // waits for the kernel
  return {out[3].x,  out[3].y,  out[3].z,           out[3].w,
          sums[2].x, sums[2].y, double(sizes[1].x), double(sizes[1].y)};
}

__constant__ const float kTable[3] = {1.f, 2.f, 4.f};

__global__ void intrinsics(double* out) {
  const float x = 1.f + 1.f / 4096;  // x * x is rounded in fp32, and is not in a fused product
  int n = 0;
  out[n++] = __fadd_rn(__fmul_rn(x, x), -1.f);
  out[n++] = __fmaf_rn(x, x, -1.f);
  out[n++] = __fsub_rn(3.f, 1.f);
  out[n++] = __fsqrt_rn(16.f);
  out[n++] = rsqrtf(16.f);
  out[n++] = __fdividef(1.f, 8.f);
  out[n++] = __float_as_int(1.f);
  out[n++] = __float_as_uint(-1.f);
  out[n++] = __int_as_float(0x40000000);
  out[n++] = __uint_as_float(0x40000000u);
  out[n++] = __popc(0xF0F0u);
  out[n++] = __ffs(8);
  out[n++] = __clz(1);
  out[n++] = __clz(0);
  out[n++] = __brev(3u);
  out[n++] = __umulhi(0xFFFFFFFFu, 16u);
  out[n++] = min(3, 2) + max(3u, 2u) + min(2.f, 1.f) + max(2.0, 1.0);
  out[n++] = kTable[threadIdx.x + 2];
  out[n++] = warpSize;
}

std::vector<double> run_intrinsics() {
  Buffer<double> out(19);
  SSL_FAST_EXPECT_WRITTEN(out.get(), 19);
  SSL_FAST_LAUNCH(intrinsics, 1, 1, 0, nullptr, out.get());
  return out.values();
}

// Writes what looks like unwritten memory at first: NaN, and every value a byte can have.
__global__ void write_anything(float* floats, uint8_t* bytes) {
  floats[threadIdx.x] = threadIdx.x % 2 ? __int_as_float(0x7FC00000) : __int_as_float(-1);
  bytes[threadIdx.x] = static_cast<uint8_t>(threadIdx.x);
}

std::vector<double> run_write_anything() {
  Buffer<float> floats(256);
  Buffer<uint8_t> bytes(256);
  SSL_FAST_EXPECT_WRITTEN(floats.get(), 256);
  SSL_FAST_EXPECT_WRITTEN(bytes.get(), 256);
  SSL_FAST_LAUNCH(write_anything, 1, 256, 0, nullptr, floats.get(), bytes.get());
  return bytes.values();
}

// Not a fault, but the order of threads made visible: out[i] is the thread that came i-th.
__global__ void arrivals(int* out, int* ticket) {
  for (int step = 0; step < 4; ++step) {
    out[atomicAdd(ticket, 1)] = threadIdx.x;
    __syncwarp();
  }
}

std::vector<double> run_arrivals() {
  Buffer<int> out(4 * 128), ticket(1);
  SSL_FAST_LAUNCH(arrivals, 1, 128, 0, nullptr, out.get(), ticket.get());
  return out.values();
}

// After a launch that failed with outputs expected and threads waiting, the next one is as new.
std::vector<double> run_after_failure() {
  Buffer<int> out(64), unrelated(64, 5);
  try {
    SSL_FAST_EXPECT_WRITTEN(unrelated.get(), 64);
    SSL_FAST_LAUNCH(exit_before_barrier, 1, 64, 0, nullptr, out.get());
  } catch (const std::runtime_error&) {
    for (int i = 0; i < 64; ++i) unrelated[i] = 5;
    std::vector<double> all = run_block_sum<int, 256>();
    all.push_back(unrelated[63]);
    return all;
  }
  return {};
}

// ---- The program --------------------------------------------------------------------------------

// The case of a kernel that takes one pointer and runs on a block of 64 threads.
#define ON_64_THREADS(kernel)                               \
  {#kernel, [] {                                            \
     Buffer<int> out(64);                                   \
     SSL_FAST_LAUNCH(kernel, 1, 64, 0, nullptr, out.get()); \
     return out.values();                                   \
   }}

const std::map<std::string, std::function<std::vector<double>()>>& cases() {
  static const std::map<std::string, std::function<std::vector<double>()>> all = {
      {"block_sum_int", run_block_sum<int, 256>},
      {"block_sum_double", run_block_sum<double, 64>},
      {"shuffles_int", run_shuffles<int>},
      {"shuffles_64", run_shuffles<unsigned long long>},
      {"shuffles_double", run_shuffles<double>},
      {"partial_warps", run_partial_warps},
      {"votes", run_votes},
      {"atomics", run_atomics},
      {"transpose", run_transpose},
      {"coordinates", run_coordinates},
      {"vectors", run_vectors},
      {"intrinsics", run_intrinsics},
      {"write_anything", run_write_anything},
      {"arrivals", run_arrivals},
      ON_64_THREADS(no_syncthreads_after_write),
      ON_64_THREADS(no_syncthreads_before_write),
      ON_64_THREADS(no_syncthreads_between_warps),
      ON_64_THREADS(no_syncwarp),
      ON_64_THREADS(exit_before_barrier),
      ON_64_THREADS(two_kinds_of_barrier),
      ON_64_THREADS(exit_before_shuffle),
      ON_64_THREADS(two_kinds_of_collective),
      ON_64_THREADS(foreign_mask),
      ON_64_THREADS(undefined_lane),
      {"leaves_gaps_float", run_leaves_gaps<float>},
      {"leaves_gaps_byte", run_leaves_gaps<uint8_t>},
      {"reads_unwritten_shared_float", run_reads_unwritten_shared<float>},
      {"reads_unwritten_shared_double", run_reads_unwritten_shared<double>},
      {"reads_unwritten_shared_int", run_reads_unwritten_shared<int>},
      {"global_overrun", run_global_overrun},
      {"dynamic_shared_overrun", run_dynamic_shared_overrun},
      {"static_shared_overrun", run_static_shared_overrun},
      {"local_overrun", run_local_overrun},
      {"signed_overflow", run_signed_overflow},
      {"misaligned_vector", run_misaligned_vector},
      {"empty_grid", run_invalid_configuration<0, 32>},
      {"large_block", run_invalid_configuration<1, 1025>},
      {"after_failure", run_after_failure},
#ifdef SSL_FAST_EMULATED
      ON_64_THREADS(throws),
      ON_64_THREADS(overflows_stack),
#endif
  };
  return all;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3 || !cases().count(arguments[1])) return 2;
#ifdef SSL_FAST_EMULATED
  ssl_fast_emulator_seed(strtoull(arguments[2], nullptr, 10));
#endif
  try {
    for (double value : cases().at(arguments[1])()) printf("%.17g\n", value);
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 3;
  }
  return 0;
}
