#!/bin/sh
# Fetch wheels for benchmarks.device on a machine without network. That machine must already have
# jax, flax, optax, orbax-checkpoint, numpy, scipy, rich, jaxtyping and, for peers, torch.
#
#   benchmarks/device_wheels.sh [PYTHON] [MACHINE] [FOLDER]     3.12 x86_64 device-wheels
#
# There, in a copy of this repository:
#
#   python3 -m pip install --no-index --no-deps --target site device-wheels/*.whl
#   PYTHONPATH=site:kernels python3 -m benchmarks.device --out device
set -eu
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
case ${1:-} in
-h | --help)
    usage
    exit 0
    ;;
-*)
    echo "unknown option $1" >&2
    usage >&2
    exit 2
    ;;
esac
python=${1:-3.12} machine=${2:-x86_64} folder=${3:-device-wheels}
platforms=
for glibc in 2_17 2_24 2_27 2_28 2_31 2_34; do
    platforms="$platforms --platform manylinux_${glibc}_$machine"
done
# tyro and tensorboardX are for training; deepctr-torch is a peer, DIEN in PyTorch.
# shellcheck disable=SC2086
python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$folder" \
    --python-version "$python" --implementation cp $platforms \
    --platform "manylinux2014_$machine" \
    msgspec threadpoolctl tyro docstring-parser typeguard tensorboardX protobuf deepctr-torch
ls "$folder"
