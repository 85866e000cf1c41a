#!/bin/sh
# Installs Selector for an image, in exactly the versions of constraints.txt: sh install.sh cpu|gpu SOURCE TARGET [EXTRAS]
# SOURCE has pyproject.toml, README.md, LICENSE, deploy, jobs and selector; TARGET becomes a virtual environment, or is one.
set -eu
variant=$1 source=$2 target=$3 extras=${4:-cluster,code,demo,language,metrics,objects}
constraints="$source/deploy/constraints.txt"
install() { "$target/bin/python" -m pip install --no-cache-dir --constraint "$constraints" "$@"; }

[ -e "$target/bin/python" ] || python3 -m venv "$target"
case $variant in
cpu)
    # The torch of the package index brings gigabytes of CUDA. uv knows where the build without lies.
    if ! "$target/bin/python" -c "import torch" 2>/dev/null; then
        install uv
        "$target/bin/uv" pip install --python "$target/bin/python" --no-cache --torch-backend=cpu \
            --constraint "$constraints" torch
    fi
    install "$source[$extras]" faiss-cpu
    ;;
gpu)
    install "$source[$extras,gpu]"
    ;;
*)
    echo "There is no variant $variant. Write cpu or gpu." >&2
    exit 2
    ;;
esac
"$target/bin/python" -m pip check
"$target/bin/selector" --version
