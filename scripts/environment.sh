# Sourced by the scripts that set up: `make_environment FOLDER EXTRAS` makes a virtual environment with jaxfc in it.

# Print an interpreter of Python 3.11 or newer: $PYTHON if it is set, else the first that is found.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer found (tried: ${PYTHON:-python3 python3.12 python3.11 python3.13 python})." \
        "Install one, or say where it is: PYTHON=/path/to/python bash $0" >&2
    return 2
}

make_environment() {
    local folder=$1 extras=$2 python
    python=$(find_python)
    if command -v uv >/dev/null; then
        [ -x "$folder/bin/python" ] || uv venv --quiet --python "$python" "$folder"
        uv pip install --quiet --python "$folder/bin/python" --editable ".$extras"
    else
        [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extras"
    fi
}
