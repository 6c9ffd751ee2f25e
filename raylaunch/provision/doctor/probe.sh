# Looks at this host and changes nothing. Read by `bash -s` from ssh, so that nothing has to be installed.
# Arguments: mark, container's name, image, address of another host, folder of models.
# Writes sections: "MARK NAME", what was found, "MARK = EXIT-STATUS"; the last is "MARK end". Then python3, where it is,
# takes the rest of stdin (network_probe.py).
mark=$1 container=$2 image=$3 peer=$4 models=$5
export LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
printf '\n%s begin\n' "$mark"
box=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) || exit 1 # in memory: a full disk must not hide itself
trap 'rm -rf "$box"' EXIT

look() { # NAME SECONDS SCRIPT: beside the others, and never longer than that
    { timeout -k 1 "$2" bash -c "$3" "$1" "$container" "$image" "$models" </dev/null >"$box/$1" 2>&1; echo $? >"$box/$1.rc"; } &
}

# Exactly as Ray's launcher runs its commands: a missing, noisy or endless start-up file shows here as it would there.
{ timeout -k 1 8 bash --login -c -i 'true && source ~/.bashrc && echo RAN' </dev/null >"$box/shell" 2>/dev/null; echo $? >"$box/shell.rc"; } &
look name 9 'began=$(date +%s%N); getent ahosts "$(hostname)"; status=$?
    echo "ms=$((($(date +%s%N) - began) / 1000000))"; exit $status'
look sudo 5 '[ "$(id -u)" = 0 ] || sudo -n true'
look docker 10 'command -v docker >/dev/null || exit 127
    if info=$(docker info --format "{{json .}}" 2>&1); then
        echo "$info"
        root=$(sed -n "s/.*\"DockerRootDir\":\"\([^\"]*\)\".*/\1/p" <<<"$info")
        [ -z "$root" ] || echo "disk $root $(df -Pk "$root" | tail -n 1)"
        exit 0
    fi
    echo "$info"
    [ -S /run/docker.sock ] || [ -S /var/run/docker.sock ] || echo "no socket"
    pidof dockerd >/dev/null || echo "no daemon"'
look objects 10 'command -v docker >/dev/null || exit 127
    found=$(docker inspect "$2" "$1" 2>&1); status=$?; echo "$found"
    if grep -q "\"Running\": true" <<<"$found"; then echo programs; docker top "$1" -eo pid,comm; fi; exit $status'
look gpus 10 'command -v nvidia-smi >/dev/null || exit 127
    nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.used,driver_version --format=csv,noheader,nounits'
look holders 10 'command -v nvidia-smi >/dev/null || exit 127
    nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,process_name --format=csv,noheader,nounits'
look disk 5 'for place in /tmp "$3" /dev/shm; do
        while [ ! -e "$place" ]; do place=$(dirname "$place"); done
        echo "disk $place $(df -Pk "$place" | tail -n 1)"
    done'
look listeners 5 'ss -Hltnp || sudo -n ss -Hltnp'
look firewall 5 'for tool in ufw firewalld; do systemctl is-active "$tool" 2>/dev/null | grep -qx active && echo $tool; done; true'

say() { printf '\n%s %s\n%s\n%s = 0\n' "$mark" "$1" "$2" "$mark"; }
say system "$(. /etc/os-release; echo "id=$ID"; echo "like=$ID_LIKE"; echo "name=$PRETTY_NAME"; echo "user=$(id -un)"
    echo "groups=$(id -Gn)"; echo "hostname=$(hostname)"; echo "bashrc=$([ -e ~/.bashrc ] && echo yes)"
    echo "hook=$(command -v nvidia-container-runtime-hook || command -v nvidia-ctk)")"
say memory "$(cat /proc/meminfo)"
say sockets "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
set -- $(getent ahosts "$peer") # a name, or an address that stays what it is
route=$(ip -o route get "${1:-$peer}" 2>&1); status=$?
link=$(sed -n 's/.* dev \([^ ]*\).*/\1/p' <<<"$route")
printf '\n%s route\n%s\nlink=%s\nmtu=%s\nspeed=%s\n%s = %s\n' "$mark" "$route" "$link" \
    "$(cat "/sys/class/net/$link/mtu" 2>/dev/null)" "$(cat "/sys/class/net/$link/speed" 2>/dev/null)" "$mark" "$status"
wait
for file in "$box"/*.rc; do
    name=${file##*/} name=${name%.rc}
    printf '\n%s %s\n%s\n%s = %s\n' "$mark" "$name" "$(<"$box/$name")" "$mark" "$(<"$file")"
done
rm -rf "$box"
trap - EXIT
python=$(command -v python3)
printf '\n%s end %s\n' "$mark" "$python"
[ -n "$python" ] || exit 0
