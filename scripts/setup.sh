# Sourced by the other scripts: makes .venv with this library in it, once.
#   setup run    what training needs
#   setup dev    the same, and what the notebooks and tests need
# A second call returns at once unless settings.ini or setup.py changed.
# VENV=FOLDER uses an environment elsewhere, as it is: nothing is installed.
# CPU_ONLY=1 takes the build of PyTorch without CUDA, which is 4 GB smaller.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

find_python() {
    local p
    for p in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$p" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then echo "$p"; return; fi
    done
    echo "error: Python 3.10 or newer is needed, and none was found on the PATH" >&2
    return 1
}

setup() {
    local kind="$1" extra="" want python
    if [ -n "${VENV:-}" ]; then
        if [ ! -x "$VENV/bin/python" ]; then
            echo "error: no bin/python in VENV='$VENV'; name the folder of a virtual environment" >&2
            exit 1
        fi
        VENV="$(cd "$VENV" && pwd)"
        export VENV PATH="$VENV/bin:$PATH" PYTHONPATH="$root"
        return
    fi
    if [ "$kind" = dev ]; then extra="[dev]"; fi
    want="$root $(cat "$root/settings.ini" "$root/setup.py" | cksum)"
    if ! "$venv/bin/python" -c '' 2>/dev/null; then rm -rf "$venv"; fi          # none yet, or its Python is gone
    if [ "$(cat "$venv/.installed-$kind" 2>/dev/null)" != "$want" ] && ! { [ "$kind" = run ] && [ "$(cat "$venv/.installed-dev" 2>/dev/null)" = "$want" ]; }; then
        echo "Installing into .venv (once; a minute or a few) …" >&2
        if [ -n "${CPU_ONLY:-}" ]; then export UV_TORCH_BACKEND=cpu PIP_EXTRA_INDEX_URL="https://download.pytorch.org/whl/cpu"; fi
        if command -v uv >/dev/null; then
            if [ ! -x "$venv/bin/python" ]; then
                python="$(find_python)"
                uv venv --quiet --seed --python "$(command -v "$python")" "$venv"
            fi
            uv pip install --quiet --compile-bytecode --python "$venv/bin/python" --editable "$root$extra"
        else
            if [ ! -x "$venv/bin/pip" ]; then
                python="$(find_python)"
                "$python" -m venv "$venv"
            fi
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root$extra"
        fi
        echo "$want" > "$venv/.installed-$kind"
    fi
    export PATH="$venv/bin:$PATH"
}
