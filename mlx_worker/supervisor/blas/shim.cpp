// The two products of CBLAS that mlx calls, made by numpy's own OpenBLAS.
//
// numpy's wheels for Linux bring an OpenBLAS with 64-bit integers and prefixed names; mlx's CPU
// build calls plain names with 32-bit integers. A process that preloads this library computes with
// numpy's. The library is checked by a test product before any model's process preloads it.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

// Multiply-adds from which a product is shared among threads, some 0.5 ms of work. A shared product
// ends with its slowest thread, which may have to wait for a processor for many milliseconds.
constexpr double kShared = 1 << 25;

// Rows that are multiplied one by one, as in decoding. A product of matrices copies the weights into
// another order first, which takes longer than a few products of the matrix and a vector.
constexpr int kFewRows = 3;

}  // namespace

extern "C" {

void scipy_cblas_sgemm64_(int, int, int, int64_t, int64_t, int64_t, float, const float*, int64_t,
                          const float*, int64_t, float, float*, int64_t);
void scipy_cblas_dgemm64_(int, int, int, int64_t, int64_t, int64_t, double, const double*, int64_t,
                          const double*, int64_t, double, double*, int64_t);
void scipy_cblas_sgemv64_(int, int, int64_t, int64_t, float, const float*, int64_t, const float*,
                          int64_t, float, float*, int64_t);
int scipy_openblas_get_num_threads64_(void);
void scipy_openblas_set_num_threads64_(int);
char* scipy_openblas_get_config64_(void);
char* scipy_openblas_get_corename64_(void);

static int most_threads() {
  static const int most = scipy_openblas_get_num_threads64_();
  return most;
}

static void set_threads_for(int m, int n, int k) {
  const int most = most_threads();
  if (most > 1) {
    scipy_openblas_set_num_threads64_(double(m) * n * k < kShared ? 1 : most);
  }
}

void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                 const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  set_threads_for(m, n, k);
  const bool is_plain = trans_a <= kTrans && trans_b <= kTrans;
  if (order == kRowMajor && m <= kFewRows && n > 0 && k > 0 && is_plain) {
    const bool by_row = trans_a == kNoTrans, by_column = trans_b == kTrans;
    for (std::ptrdiff_t row = 0; row < m; row++) {
      float* const sum = c + row * ldc;
      if (beta == 0) {
        std::memset(sum, 0, sizeof(float) * static_cast<std::size_t>(n));
      }
      scipy_cblas_sgemv64_(kRowMajor, by_column ? kNoTrans : kTrans, by_column ? n : k,
                           by_column ? k : n, alpha, b, ldb, a + row * (by_row ? lda : 1),
                           by_row ? 1 : lda, beta, sum, 1);
    }
    return;
  }
  scipy_cblas_sgemm64_(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_dgemm(int order, int trans_a, int trans_b, int m, int n, int k, double alpha,
                 const double* a, int lda, const double* b, int ldb, double beta, double* c,
                 int ldc) {
  set_threads_for(m, n, k);
  scipy_cblas_dgemm64_(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// Names what computes, with everything that its rounding depends on.
const char* mlx_worker_blas_name(void) {
  static char name[256];
  char version[64] = "OpenBLAS";
  std::sscanf(scipy_openblas_get_config64_(), "%63[^U]", version);
  for (std::size_t end = std::strlen(version); end && version[end - 1] == ' ';) {
    version[--end] = 0;
  }
  const int most = most_threads();
  std::snprintf(name, sizeof name, "%s (%s, %d thread%s)", version,
                scipy_openblas_get_corename64_(), most, most == 1 ? "" : "s");
  return name;
}

}  // extern "C"
