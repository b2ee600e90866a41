#!/usr/bin/env bash
# Starts the worker, which starts ComfyUI: the image's command.
#
# Arguments are the worker's (--test_input '{"input": ...}'). Every path can be set, so that this
# runs anywhere; docs/containers.md has the table of variables.
set -euo pipefail

say() { printf 'start.sh: %s\n' "$*"; }

fail() {
  printf 'start.sh: %s\n' "$@" >&2
  exit 1
}

is_true() {
  case "${1,,}" in
    true | 1 | yes | on) return 0 ;;
    *) return 1 ;;
  esac
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${COMFY_REMOTE_ROOT:-$here}
root=${root%/} # the image's is "/"
model_paths="$here/extra_model_paths.yaml"
python=${COMFY_REMOTE_PYTHON:-python3}
export COMFYUI_DIR=${COMFYUI_DIR:-$root/comfyui}
# The worker knows more engines: "sandbox", or the URL of a ComfyUI that runs already.
engine=${COMFY_REMOTE_ENGINE:-$COMFYUI_DIR}

check_files() {
  [[ -f $root/serverless_worker.py ]] ||
    fail "There is no serverless_worker.py in ${root:-/}." \
      "COMFY_REMOTE_ROOT names the folder that holds it."
  command -v -- "$python" >/dev/null ||
    fail "There is no Python at $python." \
      "COMFY_REMOTE_PYTHON names the one that comfy-remote[worker] is installed in."
}

# Without a GPU the worker would take jobs and run them on the CPU, for hours, at the GPU's price.
check_gpu() {
  is_true "${COMFY_REMOTE_REQUIRE_GPU:-}" || return 0
  local devices
  devices=$(nvidia-smi -L 2>&1) ||
    fail "This machine has no working GPU: ${devices:-nvidia-smi says nothing}" \
      "On RunPod, take another GPU type or report the machine. With docker run, add --gpus all." \
      "COMFY_REMOTE_REQUIRE_GPU=false runs on the CPU all the same."
  say "$devices"
}

# glibc's malloc keeps what large tensors leave free; tcmalloc gives it back. Whoever sets
# LD_PRELOAD, if only to nothing, has decided otherwise.
preload_tcmalloc() {
  [[ -z ${LD_PRELOAD+set} ]] && command -v ldconfig >/dev/null || return 0
  local library
  # awk reads to the end: a closed pipe would end ldconfig, and that this script.
  library=$(ldconfig -p | awk '/libtcmalloc(_minimal)?\.so\.[0-9]/ && !n++ { print $NF }')
  [[ -n $library ]] || return 0
  export LD_PRELOAD=$library
  say "Memory is managed by $library."
}

# For people who look into a running container. RunPod gives PUBLIC_KEY to pods whose owner has a key.
start_ssh() {
  local keys=${PUBLIC_KEY:-} line server
  [[ -n $keys ]] || return 0
  while IFS= read -r line; do
    [[ $line =~ ^(ssh-|ecdsa-|sk-|#|[[:space:]]*$) ]] ||
      fail "PUBLIC_KEY has a line that is not a public key of SSH." \
        "Give what is in a file like ~/.ssh/id_ed25519.pub, one key a line."
  done <<<"$keys"
  if ! server=$(command -v sshd); then
    say "PUBLIC_KEY is set, but there is no SSH server here: nobody can log in."
    return 0
  fi
  (umask 077 && mkdir -p ~/.ssh && printf '%s\n' "$keys" >~/.ssh/authorized_keys)
  # Made here: keys in an image would be everybody's. What the server hands on has no secrets in it.
  if ssh-keygen -A >/dev/null && env -i "PATH=$PATH" "$server" \
    -o PasswordAuthentication=no -o KbdInteractiveAuthentication=no; then
    say "An SSH server runs, for the keys in PUBLIC_KEY."
  else
    say "The SSH server could not be started: nobody can log in."
  fi
}

# ComfyUI-Manager asks its registries at each start, for minutes if they do not answer, and could
# install what a prompt's sender asks for. Here it does neither, unless somebody wants it to.
set_manager_mode() {
  local mode=${COMFY_REMOTE_MANAGER_MODE:-offline} places=("$COMFYUI_DIR/custom_nodes")
  case "$mode" in
    offline | private | public) ;;
    *) fail "COMFY_REMOTE_MANAGER_MODE is $mode, which is not one of offline, private, public." ;;
  esac
  if [[ -n ${COMFY_REMOTE_VOLUME:-} ]]; then
    places+=("$COMFY_REMOTE_VOLUME/ComfyUI/custom_nodes")
    # What jobs have brought: docs/worker.md, ALLOW_NODE_INSTALL.
    places+=("$COMFY_REMOTE_VOLUME"/.comfy-remote/nodes/sets/*/custom_nodes)
  fi
  # It is a custom node, or since ComfyUI 0.3.76 a package that this argument switches on.
  [[ " ${COMFYUI_ARGS:-} " == *" --enable-manager "* ]] ||
    [[ -n $(find "${places[@]}" -maxdepth 1 -iname 'comfyui-manager' 2>/dev/null) ]] || return 0
  local config=$COMFYUI_DIR/user/default/ComfyUI-Manager/config.ini
  if grep -qs get_system_user_directory "$COMFYUI_DIR/folder_paths.py"; then
    config=$COMFYUI_DIR/user/__manager/config.ini # ComfyUI 0.3.76 and later
  fi
  if write_manager_mode "$config" "$mode"; then
    say "ComfyUI-Manager is in the mode $mode."
  else
    say "ComfyUI-Manager's mode could not be written to $config."
  fi
}

write_manager_mode() {
  local config=$1 others="" line='network_mode = '$2
  if [[ -f $config ]]; then
    # However Python's configparser reads it: in any case, with : or =, after a byte order mark. A
    # second one would be an error, and the Manager then takes its defaults: online.
    others=$(sed '1s/^\xef\xbb\xbf//' "$config" |
      grep -vi -e '^\[default\]' -e '^[[:space:]]*network_mode[[:space:]]*[=:]' || true)
  fi
  mkdir -p -- "$(dirname -- "$config")" &&
    printf '[default]\n%s\n%s\n' "$line" "$others" >"$config"
} 2>/dev/null

# Serverless workers have the volume at /runpod-volume, pods at /workspace.
find_volume() {
  local place places=(/runpod-volume /workspace)
  if [[ -n ${COMFY_REMOTE_VOLUME:-} ]]; then
    places=("$COMFY_REMOTE_VOLUME")
  fi
  for place in "${places[@]}"; do
    if [[ -d $place ]]; then
      export COMFY_REMOTE_VOLUME=$place # the worker downloads models to it
      return 0
    fi
  done
  return 1
}

# What is on the volume and not in extra_model_paths.yaml: custom nodes, and the folders that
# custom nodes keep their models in (ipadapter, ultralytics, ...).
write_volume_paths() {
  local base=$1 folder name lines=()
  if [[ -d $base/custom_nodes ]]; then
    lines+=("  \"custom_nodes\": \"custom_nodes/\"")
  fi
  for folder in "$base"/models/*/; do
    name=$(basename -- "$folder")
    if [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] && ! grep -qF "models/$name/" "$model_paths"; then
      lines+=("  \"$name\": \"models/$name/\"")
    fi
  done
  ((${#lines[@]})) || return 0
  printf '%s:\n  base_path: "%s"\n' "$2" "$3"
  printf '%s\n' "${lines[@]}"
}

describe_volume() {
  local folder count
  for folder in "$COMFY_REMOTE_VOLUME"/{ComfyUI/,}models/*/; do
    [[ -d $folder ]] || continue
    count=$(find -L "$folder" -type f ! -name '.*' | wc -l)
    say "  ${folder%/}: $count files"
  done
}

use_volume() {
  if ! find_volume; then
    say "There is no network volume (${COMFY_REMOTE_VOLUME:-/runpod-volume}): models come from $COMFYUI_DIR/models."
    return 0
  fi
  local found
  found=$(mktemp -d)/volume_paths.yaml
  # ComfyUI replaces the variable: a path with a quote in it cannot break the file.
  # shellcheck disable=SC2016
  {
    write_volume_paths "$COMFY_REMOTE_VOLUME/ComfyUI" more_with_comfyui '${COMFY_REMOTE_VOLUME}/ComfyUI'
    write_volume_paths "$COMFY_REMOTE_VOLUME" more_with_models '${COMFY_REMOTE_VOLUME}'
  } >"$found"
  local arguments=(--extra-model-paths-config "$model_paths")
  if [[ -s $found ]]; then
    arguments+=("$found")
  fi
  say "Models are looked for on $COMFY_REMOTE_VOLUME, too (ComfyUI/models and models)."
  if is_true "${NETWORK_VOLUME_DEBUG:-}"; then
    describe_volume
  fi
  # The worker reads COMFYUI_ARGS as a shell would.
  add_arguments "${arguments[@]}"
}

add_arguments() {
  local quoted
  quoted=$(printf '%q ' "$@")
  # What somebody has set comes last, and so wins.
  export COMFYUI_ARGS="$quoted${COMFYUI_ARGS:-}"
}

set_log_level() {
  local level=${COMFY_LOG_LEVEL:-}
  case "${level^^}" in
    "") ;;
    DEBUG | INFO | WARNING | ERROR | CRITICAL) add_arguments --verbose "${level^^}" ;;
    *) fail "COMFY_LOG_LEVEL is $level, which is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL." ;;
  esac
}

# An endpoint with RunPod's API on this machine; the worker takes its jobs from there.
serve_locally() {
  local host=${COMFY_REMOTE_HOST:-0.0.0.0} engine_option=(--engine "$engine")
  [[ -n ${COMFY_REMOTE_TOKEN:-} || $host == 127.* ]] ||
    fail "SERVE_API_LOCALLY needs COMFY_REMOTE_TOKEN: at least 16 characters that clients send." \
      "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
  if [[ $engine == "$COMFYUI_DIR" ]]; then
    engine_option=(--comfyui "$engine")
  fi
  cd -- "${root:-/}"
  say "Serving RunPod's API on port ${COMFY_REMOTE_PORT:-8000}."
  exec "$python" -m comfy_remote serve "${engine_option[@]}" --worker runpod \
    --host "$host" --port "${COMFY_REMOTE_PORT:-8000}" "$@"
}

check_files
check_gpu
start_ssh
preload_tcmalloc
if [[ $engine == "$COMFYUI_DIR" ]]; then
  set_log_level
  use_volume
  set_manager_mode
fi
if is_true "${SERVE_API_LOCALLY:-}"; then
  serve_locally "$@"
fi
say "Starting the worker; its engine is $engine."
# In this process's place: signals reach the worker, which ends ComfyUI.
exec "$python" -u "$root/serverless_worker.py" --engine "$engine" "$@"
