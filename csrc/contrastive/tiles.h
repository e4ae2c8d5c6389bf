// The similarities of all rows with all columns, tile by tile. For the `_torch.cpp` files of this
// folder alone.
#pragma once

#include <cmath>

#include "contrastive/products.h"

namespace ssl_fast::contrastive {

// As many tiles as fit into this are kept for the gradients, the others are computed again. Where
// that would be most of them, all are: little time is worth little memory.
constexpr int64_t kKeptBytes = 192 << 20;

// Rows and columns of features, and which pairs are positive, or the same.
struct Pairs {
  Matrix rows, columns;
  double scale;
  int64_t self_offset = kNobody;
  const int64_t* targets = nullptr;
  bool symmetric = false;  // rows are the columns: only tiles on and above the diagonal are made
};

struct Place {
  int64_t first_row, rows, first_column, columns;
  int64_t offset;  // in the memory for tiles, in elements
  bool diagonal;   // of symmetric pairs: holds both (i, j) and (j, i)
  bool starts_row;
  bool kept;  // nothing else takes its memory
};

// Walks over the tiles of some pairs. Panels of rows in order, in each its columns in order.
class Tiles {
 public:
  Tiles(const Pairs& pairs, bool keep) : pairs_(pairs) {
    // A tile and what it is made from stay in the second-level caches; rows enough for all threads.
    const int64_t threads = torch::stable::get_num_threads();
    tile_rows_ = std::min(std::clamp<int64_t>(64 * threads, 256, 1024), pairs.rows.rows);
    tile_columns_ = std::min<int64_t>(1024, pairs.columns.rows);
    int64_t all = 0;
    for_places([&](const Place& place) {
      all += place.rows * place.columns;
      largest_ = std::max(largest_, place.rows * place.columns);
    });
    const int64_t room = kKeptBytes / pairs.rows.element_size();
    if (keep && all <= std::max(2 * room, largest_))
      kept_ = std::min(all, std::max(room, largest_));
    elements_ = kept_ == all ? all : kept_ + largest_;
  }

  int64_t chunks() const { return chunks_of(tile_rows_); }
  int64_t columns() const { return tile_columns_; }
  int64_t longest_side() const { return std::max(tile_rows_, tile_columns_); }
  void want(Workspace& workspace) {
    workspace.want(&memory_, elements_ * pairs_.rows.element_size());
  }

  template <typename Function>
  void for_places(Function function) const {
    int64_t offset = 0;
    const int64_t rows = pairs_.rows.rows, columns = pairs_.columns.rows;
    for (int64_t r = 0; r < rows; r += tile_rows_) {
      const int64_t height = std::min(tile_rows_, rows - r);
      int64_t c = pairs_.symmetric ? r : 0;
      for (bool first = true; c < columns; first = false) {
        const bool diagonal = pairs_.symmetric && first;
        const int64_t width = std::min(diagonal ? height : tile_columns_, columns - c);
        const bool kept = offset + height * width <= kept_;
        function(Place{r, height, c, width, kept ? offset : std::min(offset, kept_), diagonal,
                       first, kept});
        offset += height * width;
        c += width;
      }
    }
  }

  Matrix matrix(const Place& place) const {
    char* data = static_cast<char*>(memory_) + place.offset * pairs_.rows.element_size();
    return dense(data, pairs_.rows.dtype, place.rows, place.columns);
  }
  void multiply(const Place& place) const {
    contrastive::multiply(pairs_.rows.slice(place.first_row, place.rows),
                          pairs_.columns.slice(place.first_column, place.columns).transposed(),
                          matrix(place));
  }
  Tile tile(const Place& place) const {
    return {matrix(place).data, kernel_type(pairs_.rows.dtype),
            place.rows,         place.columns,
            place.columns,      place.first_row,
            place.first_column, pairs_.scale,
            pairs_.self_offset, pairs_.targets};
  }
  const Pairs& pairs() const { return pairs_; }

 private:
  Pairs pairs_;
  int64_t tile_rows_, tile_columns_;
  int64_t largest_ = 0, kept_ = 0, elements_ = 0;  // of tiles
  void* memory_ = nullptr;
};

// A tile holds gradients of logits: their part of `alpha` times the gradients of features goes to
// `rows` and, if not null, to `columns`. Of symmetric pairs both go to `rows`. `part` is memory for
// a product of bfloat16.
inline void add_feature_gradients(const Tiles& tiles, const Place& place, double alpha,
                                  const Matrix& rows, const Matrix* columns, void* part) {
  const Pairs& pairs = tiles.pairs();
  const Matrix gradient = tiles.matrix(place);
  const bool top = place.first_row == 0;
  add_product(gradient, pairs.columns.slice(place.first_column, place.columns), alpha,
              place.starts_row && (top || !pairs.symmetric),
              rows.slice(place.first_row, place.rows), part);
  const Matrix* sum = !pairs.symmetric ? columns : place.diagonal ? nullptr : &rows;
  if (sum)
    add_product(gradient.transposed(), pairs.rows.slice(place.first_row, place.rows), alpha, top,
                sum->slice(place.first_column, place.columns), part);
}

}  // namespace ssl_fast::contrastive
