// The kernels for one instruction set; compiled once for each, with -DDIEN_KERNELS=kernels_<name>.
#include "backward.h"

namespace dien {

extern const Kernels DIEN_KERNELS;
const Kernels DIEN_KERNELS = {forward, backward};

}  // namespace dien
