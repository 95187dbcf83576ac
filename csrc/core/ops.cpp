/* The list of operations, the one that models begin with, and what loaders of several share. */
#include "core/ops.h"

#include "core/symmetry.h"

namespace bitsr {
namespace {

const OperationType* const OPERATIONS[] = {&CONV, &SIGN,   &BCONV,  &SCALE_MAP, &QUANT,  &QCONV,
                                           &ADD,  &CONCAT, &REPEAT, &ATTEND,    &SHUFFLE};

void unknown(Loader&, Line& line, Operation&) {
  fail("unknown operation '" + line.kind.substr(0, 40) + "'");
}
const OperationType UNKNOWN = {"", Cells::values, Named::no, 1, unknown, nullptr};

void feed(Rows& rows, const Operation& op, int y, uint64_t*) {
  std::memcpy(rows.values(op.output, y), rows.lr + size_t(y - rows.lr_base) * size_t(rows.w),
              size_t(rows.w) * 2);
}

}  // namespace

const OperationType INPUT = {"", Cells::values, Named::no, 0, nullptr, feed};

const OperationType& operation_type(const std::string& word) {
  for (const OperationType* type : OPERATIONS)
    if (word == type->word) return *type;
  return UNKNOWN;
}

void add_input_operation(Model& model) {
  Buffer lr;
  lr.name = "lr";
  lr.channels = 1;
  lr.producer = 0;
  model.buffers.push_back(lr);
  Operation input;
  input.type = &INPUT;
  input.name = "input";
  input.output = 0;
  model.operations.push_back(std::move(input));
}

void check_kernel(const std::vector<uint64_t>& shape, const std::string& name, uint64_t largest) {
  if (shape.size() != 4 || shape[0] < 1 || shape[0] > MAX_CHANNELS || shape[1] != shape[2] ||
      shape[1] % 2 != 1 || shape[1] > largest)
    fail("tensor " + name + " has an impossible shape");
}

void load_epilogue(Loader& loader, Epilogue& e, const std::string& name, int cout) {
  const std::vector<uint64_t> channels = {uint64_t(cout)};
  const auto values = [&](Array<int16_t>& out, const char* suffix, bool required) {
    const std::string tensor = name + suffix;
    const Tensor* t =
        required ? &loader.need(tensor, "I16", channels) : loader.find(tensor, "I16", channels);
    if (t) loader.channel_values(out, *t, e.cout_pad, tensor);
    return t != nullptr;
  };
  values(e.mul, ".mul", true);
  values(e.add, ".add", true);
  if (values(e.inner_slope, ".inner_slope", false) != values(e.inner_add, ".inner_add", false))
    fail(name + ": inner_slope and inner_add go together");
  const bool slope = values(e.slope, ".slope", false);
  if (values(e.slope_add, ".slope_add", false) && !slope) fail(name + ": slope_add has no slope");
}

void prepare_epilogue(Loader& loader, Epilogue& e) {
  if (!e.threshold.size()) loader.budget.allocate(e.threshold, size_t(e.cout_pad));
  loader.budget.allocate(e.values, size_t(e.cout_pad) * VALUES);
  const Array<int16_t>* arrays[VALUES] = {&e.mul,   &e.add,       &e.inner_slope, &e.inner_add,
                                          &e.slope, &e.threshold, &e.slope_add};
  for (int c = 0; c < e.cout_pad; c++)
    for (int i = 0; i < VALUES; i++)
      if (arrays[i]->size())
        e.values[size_t((c / 64 * VALUES + i) * 64 + c % 64)] = (*arrays[i])[size_t(c)];
}

int orientations_of(const std::string& text, const Buffer& in) {
  const int n =
      text.empty() ? 1 : Line::number_of(text, ORIENTATIONS, ORIENTATIONS, "a number of turns");
  if (n > 1 && in.channels % n) fail("what turns reads fields of 8 channels");
  return n;
}

}  // namespace bitsr
