/* The operations of a model: one table each, with all that the core knows of it.
 *
 * To add one: write ops/NAME.cpp, which defines its `const OperationType`; declare that below and
 * name it in OPERATIONS (ops.cpp). The numpy reference and the packer have one place each as well.
 */
#pragma once

#include "core/load.h"
#include "core/stream.h"

namespace bitsr {

enum class Named { no, maybe, yes };
constexpr int MANY = 0, NONE = -1;

struct OperationType {
  const char* word; /* the first of its line in the file */
  Cells reads;      /* what its first input is made of */
  Named named;      /* whether a name of tensors stands in its line */
  int inputs;       /* that stand in its line: 1, 2 or MANY, which is one or more */

  /* Parses its keys, checks and loads its tensors, makes its buffer. */
  void (*load)(Loader&, Line&, Operation&);
  /* Row y of its first input, whose rows are `rows.width(op)` pixels long; of a shuffle several
   * rows come of it. */
  void (*run)(Rows& rows, const Operation& op, int y, uint64_t* scratch);

  /* What is made of loaded weights once the signs are fused; null: nothing. */
  void (*prepare)(Loader&, Operation&) = nullptr;
  /* The first of the inputs in whose memory it may work once nobody else needs that one. */
  int in_place_from = NONE;
  bool reads_scale_maps = false; /* its first input may be several of them */
  /* State of one image; null: none. See attention.h. */
  std::unique_ptr<Gate> (*gate)(const Operation&) = nullptr;
};

extern const OperationType INPUT, CONV, SIGN, BCONV, SCALE_MAP, QUANT, QCONV, ADD, CONCAT, REPEAT,
    POOL, ATTEND, SHUFFLE;

/* The one of that word; of an unknown word one that fails to load. */
const OperationType& operation_type(const std::string& word);

/* The operation that every model begins with: LR luma, as the caller feeds it. */
void add_input_operation(Model& model);

/* ---- what several of them share ---- */

/* Settings of `sign`. */
struct Sign {
  Array<int16_t> threshold;
};

/* A convolution's weights (Cout, k, k, ...), k odd and at most `largest`. */
void check_kernel(const std::vector<uint64_t>& shape, const std::string& name, uint64_t largest);

/* The tensors NAME.mul, NAME.add and so on of the epilogue of a convolution. */
void load_epilogue(Loader& loader, Epilogue& e, const std::string& name, int cout);
/* The values of 64 channels side by side, for the kernels. */
void prepare_epilogue(Loader& loader, Epilogue& e);

/* The key turns=: orientations that stored weights stand for, 1 or ORIENTATIONS, which `in` must be
 * fields of. */
int orientations_of(const std::string& text, const Buffer& in);

}  // namespace bitsr
