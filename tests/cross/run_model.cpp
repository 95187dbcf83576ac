/* Runs models on planes for the tests that cannot load the libraries into Python: another CPU, a
 * sanitizer.
 *
 *   run_model JOBS
 * JOBS is a text file, a job a line; names of files hold no blanks:
 *   run MODEL LR H W THREADS PORTION OUT   every path one after another on H x W int16, fed PORTION
 *                                          rows at a time; the SR rows go to OUT.ISA
 *   open MODEL                             open it, and run a small image should it be accepted
 *   colour LR LUMA DEPTH CHANNELS H W SCALE SMOOTH OUT
 *                                          LR pixels merged with an SR luma, in windows of rows, to
 *                                          OUT; luma of the LR pixels beside it, for a sanitizer
 *   train N H W C O K THREADS              training's products on noise, on every path that has
 *                                          them, against plain sums; and a unit's two calls where C
 *                                          is O, for a sanitizer alone
 * Each job prints one line: "run ISA ..." for every path, "accepted", "refused WHY", "colour" or
 * "train". Exit status 1 where a `run`, `colour` or `train` fails or the core breaks its own rules.
 */
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "bitsr.h"
#include "bitsr_train.h"

namespace {

using Bytes = std::vector<char>;

[[noreturn]] void fail(const std::string& why) {
  std::cout << "failed " << why << std::endl;
  std::exit(1);
}

Bytes read(const std::string& name) {
  std::ifstream file(name, std::ios::binary);
  if (!file) fail("to read " + name);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

/* SR rows, taken as they come. Each push gets exactly the memory it may touch, so that a sanitizer
 * sees more. */
std::vector<int16_t> run(const bitsr_model* model, const std::vector<int16_t>& lr, int h, int w,
                         int threads, int portion) {
  char err[256] = "";
  bitsr_stream* stream = bitsr_stream_open(model, h, w, threads, 0, err, sizeof err);
  if (!stream) fail(std::string("to begin: ") + err);
  const size_t wide = size_t(w) * size_t(bitsr_model_scale(model));
  std::vector<int16_t> sr;
  for (int y = 0; y < h; y += portion) {
    const int n = std::min(portion, h - y), ready = bitsr_stream_ready(stream, n);
    const std::vector<int16_t> rows(lr.begin() + ptrdiff_t(y) * w,
                                    lr.begin() + ptrdiff_t(y + n) * w);
    std::vector<int16_t> out(size_t(ready) * wide);
    if (bitsr_stream_push(stream, rows.data(), n, out.data(), ready, err, sizeof err) != ready)
      fail(std::string("to push: ") + err);
    sr.insert(sr.end(), out.begin(), out.end());
  }
  const std::vector<int16_t> row(static_cast<size_t>(w));
  if (bitsr_stream_push(stream, row.data(), 1, nullptr, 0, err, sizeof err) >= 0)
    fail("to refuse a row too many");
  bitsr_stream_close(stream);
  if (sr.size() != wide * size_t(h) * size_t(bitsr_model_scale(model))) fail("to give every row");
  return sr;
}

void run_job(std::istream& line) {
  std::string model_name, lr_name, out_name;
  int h = 0, w = 0, threads = 0, portion = 0;
  if (!(line >> model_name >> lr_name >> h >> w >> threads >> portion >> out_name) || portion < 1)
    fail("to read a job");
  const Bytes bytes = read(model_name), plane = read(lr_name);
  if (plane.size() != size_t(h) * size_t(w) * 2) fail("as " + lr_name + " has another size");
  std::vector<int16_t> lr(size_t(h) * size_t(w));
  std::memcpy(lr.data(), plane.data(), plane.size());
  for (int i = 0; const char* isa = bitsr_isa(i); i++) {
    char err[256] = "";
    bitsr_model* model = bitsr_model_open(bytes.data(), bytes.size(), isa, err, sizeof err);
    if (!model) fail("to open " + model_name + ": " + err);
    const std::vector<int16_t> sr = run(model, lr, h, w, threads, portion);
    bitsr_model_close(model);
    std::ofstream out(out_name + "." + isa, std::ios::binary);
    out.write(reinterpret_cast<const char*>(sr.data()), std::streamsize(sr.size() * 2));
    if (!out.flush()) fail("to write " + out_name);
    std::cout << "run " << isa << ' ' << h << 'x' << w << " threads=" << threads
              << " portion=" << portion << std::endl;
  }
}

void open_job(std::istream& line) {
  std::string name;
  if (!(line >> name)) fail("to read a job");
  const Bytes bytes = read(name);
  for (const size_t cap : {size_t(0), size_t(1), size_t(256)}) {
    std::vector<char> err(cap, 'x');
    bitsr_model* model = bitsr_model_open(bytes.data(), bytes.size(), nullptr, err.data(), cap);
    if (model) {
      run(model, std::vector<int16_t>(15), 3, 5, 2, 2);
      bitsr_model_close(model);
      std::cout << "accepted" << std::endl;
      return;
    }
    if (cap && !std::memchr(err.data(), 0, cap)) fail("to end its message");
    if (cap == 256) std::cout << "refused " << err.data() << std::endl;
  }
}

template <class T>
std::vector<T> read_array(const std::string& name, size_t n) {
  const Bytes bytes = read(name);
  if (bytes.size() != n * sizeof(T)) fail("to find " + name + " as long as it should be");
  std::vector<T> out(n);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

template <class Pixel>
void colour(const std::string& pixels, const std::string& sr_luma, int channels, int h, int w,
            int scale, int smooth, const std::string& to) {
  constexpr int depth = 8 * int(sizeof(Pixel)), reach = 4;
  const size_t row = size_t(w) * size_t(channels), wide = size_t(w) * size_t(scale);
  const std::vector<Pixel> lr = read_array<Pixel>(pixels, size_t(h) * row);
  const std::vector<int16_t> sr = read_array<int16_t>(sr_luma, size_t(h) * size_t(scale) * wide);
  std::vector<int16_t> luma(size_t(h) * size_t(w));
  if (bitsr_luma(lr.data(), depth, channels, luma.size(), luma.data())) fail("to make luma");
  std::ofstream file(to, std::ios::binary);
  for (int y = 0, n = 1; y < h * scale; y += n, n = 1 + n % 7) {
    n = std::min(n, h * scale - y);
    const int first = std::max(y / scale - reach, 0);
    const int last = std::min((y + n - 1) / scale + 1 + reach, h);
    const std::vector<Pixel> window(lr.begin() + ptrdiff_t(size_t(first) * row),
                                    lr.begin() + ptrdiff_t(size_t(last) * row));
    const std::vector<int16_t> rows(sr.begin() + ptrdiff_t(size_t(y) * wide),
                                    sr.begin() + ptrdiff_t(size_t(y + n) * wide));
    std::vector<Pixel> out(size_t(n) * wide * size_t(channels));
    char err[256] = "";
    if (bitsr_merge(window.data(), depth, channels, h, w, first, last - first, scale, smooth,
                    rows.data(), y, n, out.data(), err, sizeof err))
      fail(std::string("to merge: ") + err);
    file.write(reinterpret_cast<const char*>(out.data()),
               std::streamsize(out.size() * sizeof(Pixel)));
  }
  if (!file) fail("to write " + to);
}

void colour_job(std::istream& line) {
  std::string pixels, sr_luma, to;
  int depth = 0, channels = 0, h = 0, w = 0, scale = 0, smooth = 0;
  if (!(line >> pixels >> sr_luma >> depth >> channels >> h >> w >> scale >> smooth >> to))
    fail("to read a job");
  (depth == 8 ? colour<uint8_t> : colour<uint16_t>)(pixels, sr_luma, channels, h, w, scale, smooth,
                                                    to);
  std::cout << "colour" << std::endl;
}

/* What a unit reads and what it writes, each as long as it says. */
void unit(const char* isa, int n, int h, int w, int c, int k, int maps, int threads,
          const std::vector<float>& noise) {
  const size_t pixels = size_t(n) * h * w, weights = size_t(c) * c * k * k;
  std::vector<float> x(noise.begin(), noise.begin() + ptrdiff_t(pixels * c)),
      g(x.rbegin(), x.rend());
  std::vector<float> weight(noise.begin(), noise.begin() + ptrdiff_t(weights)), channels[15];
  for (std::vector<float>& values : channels) values.assign(size_t(c), 0.5f);
  std::vector<float> size(size_t(c) * maps, 0.5f), g_size(size.size()), sizes(pixels * maps),
      y(pixels * c), gx(pixels * c), g_weight(weights);
  std::vector<int16_t> sums(pixels * c);
  bitsr_unit u = {};
  u.n = n, u.h = h, u.w = w, u.c = c, u.k = k, u.maps = maps, u.threads = threads;
  u.norm_eps = u.bn_eps = 1e-5f, u.norm_weight = u.bn_weight = 0.1f;
  u.x = x.data(), u.weight = weight.data(), u.g = g.data();
  float** const own[] = {&u.norm_mean,   &u.norm_variance, &u.bn_mean,    &u.bn_variance,
                         &u.mean,        &u.deviation,     &u.batch_mean, &u.batch_inverse,
                         &u.g_threshold, &u.g_scale,       &u.g_shift};
  for (size_t i = 0; i < 11; i++) *own[i] = channels[i].data();
  u.threshold = channels[12].data(), u.scale = channels[13].data(), u.shift = channels[14].data();
  u.size = size.data(), u.g_size = g_size.data();
  u.sizes = sizes.data(), u.sums = sums.data(), u.y = y.data(), u.gx = gx.data(),
  u.g_weight = g_weight.data();
  if (bitsr_unit_forward(&u, isa) || bitsr_unit_backward(&u, isa)) fail("to train a unit");
  u.running = 1;
  if (bitsr_unit_forward(&u, isa)) fail("to evaluate a unit");
}

void train_job(std::istream& line) {
  int n = 0, h = 0, w = 0, c = 0, o = 0, k = 0, threads = 0;
  if (!(line >> n >> h >> w >> c >> o >> k >> threads)) fail("to read a job");
  uint32_t state = 1;
  const auto next = [&state] { return (state = state * 1664525 + 1013904223) >> 16; };
  const size_t pixels = size_t(n) * h * w, weights = size_t(o) * k * k * c;
  std::vector<int8_t> x(pixels * c), g(pixels * o), s(pixels * c), b(weights);
  for (int8_t& v : x) v = int8_t(next());
  for (int8_t& v : g) v = int8_t(next());
  for (int8_t& v : s) v = next() % 2 ? 1 : -1;
  for (int8_t& v : b) v = next() % 2 ? 1 : -1;
  std::vector<int32_t> y(pixels * o), transposed(pixels * c), weight(weights);
  for (size_t p = 0; p < pixels; p++)
    for (int tap = 0; tap < k * k; tap++) {
      const int row = int(p / w % h) + tap / k - k / 2, column = int(p % w) + tap % k - k / 2;
      if (row < 0 || row >= h || column < 0 || column >= w) continue;
      const size_t q = p / w / h * h * w + size_t(row) * w + size_t(column);
      for (int i = 0; i < o; i++)
        for (int j = 0; j < c; j++) {
          const size_t at = (size_t(i) * k * k + tap) * c + j;
          y[p * o + i] += x[q * c + j] * b[at];
          transposed[q * c + j] += g[p * o + i] * b[at];
          weight[at] += g[p * o + i] * s[q * c + j];
        }
    }
  for (int i = 0; const char* isa = bitsr_isa(i); i++) {
    std::vector<int32_t> y_(y.size()), transposed_(transposed.size()), weight_(weights);
    if (bitsr_sign_conv(x.data(), b.data(), y_.data(), n, h, w, c, o, k, 0, threads, isa)) continue;
    if (bitsr_sign_conv(g.data(), b.data(), transposed_.data(), n, h, w, c, o, k, 1, threads,
                        isa) ||
        bitsr_sign_conv_weight(s.data(), g.data(), weight_.data(), n, h, w, c, o, k, threads, isa))
      fail("to do a gradient");
    if (y_ != y || transposed_ != transposed || weight_ != weight)
      fail(std::string("to sum rightly by ") + isa);
    std::vector<float> noise(std::max(pixels * c, weights));
    for (float& v : noise) v = float(next()) / 32768 - 1;
    for (int maps : {1, 8})
      if (c == o) unit(isa, n, h, w, c, k, maps, threads, noise);
  }
  std::cout << "train" << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) fail("as it takes one argument, the file of jobs");
  std::ifstream jobs(argv[1]);
  if (!jobs) fail(std::string("to read ") + argv[1]);
  for (std::string text; std::getline(jobs, text);) {
    std::istringstream line(text);
    std::string kind;
    if (!(line >> kind)) continue;
    if (kind == "run")
      run_job(line);
    else if (kind == "open")
      open_job(line);
    else if (kind == "colour")
      colour_job(line);
    else if (kind == "train")
      train_job(line);
    else
      fail("to understand '" + kind + "'");
  }
  return 0;
}
