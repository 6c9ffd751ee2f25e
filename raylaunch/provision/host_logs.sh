# Prints the logs of this host and of the cluster's container, whether Ray runs there or not. Changes nothing.
# Arguments: mark, container's name, program of the container runtime, bytes of each log, volumes of raylaunch's and of
# Ray's folder, image. Read by `bash -s` from ssh.
# Writes "MARK NAME", then the end of that log; the last is "MARK end".
mark=$1 container=$2 runtime=$3 most=$4 home=$5 ray=$6 image=$7
export LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
section() { printf '\n%s %s\n' "$mark" "$1"; }
section kernel
{ sudo -n dmesg || dmesg || journalctl -k -n 5000 --no-pager -o short-iso; } 2>/dev/null | tail -c "$most"
section daemon
journalctl -u "$runtime" -n 300 --no-pager -o short-iso 2>/dev/null | tail -c "$most"
command -v nvidia-smi >/dev/null && { section nvidia-smi; timeout 10 nvidia-smi -L 2>&1 | head -c 20000; }

# In the container where it runs, else on a copy of its files, or with the volumes that outlive it; $1: where its root
# is, $2: mark, $3: bytes of each log
show='cd "$1" 2>/dev/null || exit 0
session=$(ls -td tmp/ray/session_2* 2>/dev/null | head -n 1)
for log in root/.raylaunch/services/*/engine*.log root/.raylaunch/incidents/*/engine.log \
    $session/logs/* $session/logs/events/event_RAYLET.log; do
    [ -f "$log" ] && [ -s "$log" ] && [ -n "$(find "$log" -mtime -7)" ] || continue
    printf "\n%s /%s\n" "$2" "$log"; tail -c "$3" "$log"
done'
if command -v "$runtime" >/dev/null && "$runtime" inspect "$container" >/dev/null 2>&1; then
    section "$runtime logs $container"
    "$runtime" logs --timestamps --tail 20000 "$container" 2>&1 | tail -c "$most"
    if ! "$runtime" exec "$container" sh -c "$show" sh / "$mark" "$most" 2>/dev/null; then
        box=$(mktemp -d) && trap 'rm -rf "$box"' EXIT
        mkdir -p "$box/root/.raylaunch" "$box/tmp"
        for part in root/.raylaunch/services root/.raylaunch/incidents tmp/ray; do
            timeout 60 "$runtime" cp "$container:/$part" "$box/${part%/*}/" >/dev/null 2>&1
        done
        sh -c "$show" sh "$box" "$mark" "$most"
    fi
    section zone
    "$runtime" exec "$container" date +%z 2>/dev/null
elif command -v "$runtime" >/dev/null && "$runtime" volume inspect "$home" "$ray" >/dev/null 2>&1; then
    section "$runtime events $container"
    timeout 10 "$runtime" events --since 168h --until 0s --filter "container=$container" --filter event=die \
        2>/dev/null | tail -n 1
    timeout 60 "$runtime" run --rm --pull never --network none --entrypoint sh -v "$home:/kept/root/.raylaunch:ro" \
        -v "$ray:/kept/tmp/ray:ro" "$image" -c "$show; printf '\n%s zone\n' \"\$2\"; date +%z" sh /kept "$mark" "$most"
fi
section end
