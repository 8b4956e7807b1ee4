# Sourced by scripts/mtlrun and scripts/test: makes the checkout's own environment, .venv, on first
# use, and brings it up to date when pyproject.toml or scripts/constraints.txt has changed.
#
# What is installed is noted in .venv/.installed-base and .venv/.installed-dev, written last: an
# interrupted installation is done again. Needs bash 3.2 or newer and Python 3.11 or newer, and the
# checkout's absolute path in $root.

venv=$root/.venv
log=$venv/install.log
oldest_minor=11
# What pip writes when it cannot reach its index, as one extended regular expression.
no_network='NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError'
no_network=$no_network'|Max retries exceeded|Network is unreachable|name resolution|timed out'
no_network=$no_network'|Connection refused|Connection reset'

say() {
  printf 'mtlrun: %s\n' "$*" >&2
}

fail() {
  say "$*"
  exit 1
}

# What the environment depends on: where it is (its scripts hold absolute paths) and what is asked for.
fingerprint() {
  printf '%s\n' "$root"
  cd -- "$root" && cksum pyproject.toml scripts/constraints.txt
}

# is_installed KIND: whether .venv is up to date for KIND, base or dev.
is_installed() {
  local stamp=$venv/.installed-$1
  [[ -x $venv/bin/python && -x $venv/bin/mtlrun && -f $stamp ]] &&
    [[ $(<"$stamp") == "$(fingerprint)" ]]
}

# version_of PYTHON: prints for example 3.11.7, or nothing where it is no Python.
version_of() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true
}

is_new_enough() {
  local major minor rest
  IFS=. read -r major minor rest <<<"$1"
  [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] &&
    ((major > 3 || (major == 3 && minor >= oldest_minor)))
}

# Sets python to a Python that is new enough, from $PYTHON or else from PATH.
find_python() {
  local need="needs Python 3.$oldest_minor or newer" candidate version seen=""
  if [[ -n ${PYTHON:-} ]]; then
    version=$(version_of "$PYTHON")
    [[ -n $version ]] || fail "$need, and PYTHON=$PYTHON does not run as a Python."
    is_new_enough "$version" || fail "$need, and PYTHON=$PYTHON is Python $version."
    python=$PYTHON
    return
  fi
  for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
    version=$(version_of "$candidate")
    if is_new_enough "$version"; then
      python=$candidate
      return
    fi
    [[ -z $version || -n $seen ]] || seen="$(command -v "$candidate") is Python $version"
  done
  fail "$need, and ${seen:-there is no Python on the PATH}: install a newer one, or" \
    "name it, as in PYTHON=/path/to/python3.11 $0."
}

# Takes the lock that keeps two starts from installing at once, on descriptor 9; it is given back
# when that is closed. Python takes it because not every system has the command flock. The file is
# opened for appending, which locks need on some network file systems; nothing is written.
lock() {
  exec 9>>"$root/scripts/constraints.txt"
  "$python" - <<'PYTHON'
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("mtlrun: waiting for another start that is installing into .venv", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
PYTHON
}

# Makes .venv where there is none, or where it is of no use: its Python is gone or too old, or the
# checkout was moved.
make_venv() {
  local clear="" stamp
  if [[ -e $venv/bin/python || -L $venv/bin/python ]]; then
    is_new_enough "$(version_of "$venv/bin/python")" || clear=--clear
    for stamp in "$venv"/.installed-*; do
      [[ ! -f $stamp || $(head -n 1 "$stamp") == "$root" ]] || clear=--clear
    done
    if [[ -z $clear ]] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
      return
    fi
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module: install it (Debian and Ubuntu have it as python3-venv), or" \
      "name another Python, as in PYTHON=/path/to/python3.11 $0."
  say "making .venv with Python $(version_of "$python")"
  "$python" -m venv $clear "$venv" || fail "$python could not make $venv; its reason is above."
}

# Prints what pip is collecting, in a line or two instead of its hundreds.
show_progress() {
  local line count=0
  while IFS= read -r line; do
    case $line in
      "Collecting "* | "Processing "*.whl*)
        case $line in
          Collecting*) line=${line#* } line=${line%%[ <>=!~;\[(]*} ;; # a requirement
          *) line=${line##*/} line=${line%%-*} ;;                     # a wheel's path
        esac
        ((count++ > 0)) || printf '  collecting' >&2
        printf ' %s' "$line" >&2
        ;;
      "Installing collected packages"*)
        ((count == 0)) || printf '\n' >&2
        count=0
        printf '  installing\n' >&2
        ;;
    esac
  done
  ((count == 0)) || printf '\n' >&2
}

# install KIND: runs pip.
install() {
  local target="$root[dev]"
  [[ $1 == dev ]] || target="$root[data,plots,sweep,export]" # so that all commands in README work
  say "installing into .venv; the first time this takes some minutes (log: $log)"
  if "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    --constraint "$root/scripts/constraints.txt" --editable "$target" 2>&1 |
    tee "$log" | show_progress; then
    return
  fi
  if grep -qE "$no_network" "$log"; then
    fail "pip cannot reach its package index: check the network or the proxy and start again (pip's" \
      "own words are in $log)."
  fi
  # pip ends with general remarks; what went wrong is in the lines that it marks.
  { grep 'ERROR: ' "$log" || tail -n 5 "$log"; } | tail -n 5 | sed 's/^ */  /' >&2
  fail "pip failed, with the lines above; all of its output is in $log."
}

# prepare KIND: returns at once where .venv is up to date for KIND, base or dev.
prepare() {
  is_installed "$1" && return
  [[ -w $root ]] || fail "cannot make $venv: $root is not writable."
  find_python
  lock
  if ! is_installed "$1"; then # another start may have done it meanwhile
    make_venv
    local started=$SECONDS asked
    asked=$(fingerprint) # before pip reads the files: a change while it runs is noticed next time
    rm -f "$venv/.installed-$1"
    install "$1"
    printf '%s\n' "$asked" >"$venv/.installed-base" # dev has all that base has
    printf '%s\n' "$asked" >"$venv/.installed-$1"
    say "ready after $((SECONDS - started)) s"
  fi
  exec 9>&-
}
