// The kernels for one instruction set; compiled once for each, with -DDIEN_KERNELS=kernels_<name>.
#include "adam.h"
#include "attention.h"
#include "auxiliary.h"
#include "backward.h"
#include "candidates.h"

namespace dien {

extern const Kernels DIEN_KERNELS;
const Kernels DIEN_KERNELS = {forward,   backward,           auxiliary,
                              attention, attention_backward, candidate_attention,
                              last_states, adam};

}  // namespace dien
