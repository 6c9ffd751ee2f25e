# Inspects this host and changes nothing. Read by `bash -s` from ssh, so that nothing has to be installed.
# Arguments: mark, container's name, image, address of another host, folder of models (as a shell's double-quoted text),
# program of the container runtime, image that the image is built on (may be empty).
# Writes sections: "MARK NAME", what was found, "MARK = EXIT-STATUS"; the last is "MARK end". Then python3, if present,
# reads the rest of stdin (network_probe.py).
mark=$1 container=$2 image=$3 peer=$4 runtime=$6 base=$7
eval "models=\"$5\"" # as the shell expands it that starts the container
export LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
printf '\n%s begin\n' "$mark"
box=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d) || exit 1 # in memory: works on a full disk
trap 'rm -rf "$box"' EXIT

probe() { # NAME SECONDS SCRIPT: in parallel, with a time limit; in SCRIPT $1 container, $2 image, $3 models, $4 runtime, $5 base
    { timeout -k 1 "$2" bash -c "$3" "$1" "$container" "$image" "$models" "$runtime" "$base" </dev/null >"$box/$1" 2>&1; echo $? >"$box/$1.rc"; } &
}

# Exactly as Ray's launcher runs its commands: a missing, noisy or endless start-up file has the same effect here.
{ timeout -k 1 8 bash --login -c -i 'true && source ~/.bashrc && echo RAN' </dev/null >"$box/shell" 2>/dev/null; echo $? >"$box/shell.rc"; } &
probe name 9 'began=$(date +%s%N); getent ahosts "$(hostname)"; status=$?
    echo "ms=$((($(date +%s%N) - began) / 1000000))"; exit $status'
probe sudo 5 '[ "$(id -u)" = 0 ] || sudo -n true'
probe docker 10 'command -v "$4" >/dev/null || exit 127
    if info=$("$4" info --format "{{json .}}" 2>&1); then
        echo "$info"
        root=$(sed -n "s/.*\"DockerRootDir\":\"\([^\"]*\)\".*/\1/p" <<<"$info")
        [ -z "$root" ] || echo "disk $root $(df -Pk "$root" | tail -n 1)"
        exit 0
    fi
    echo "$info"
    [ -S "/run/$4.sock" ] || [ -S "/var/run/$4.sock" ] || echo "no socket"
    pidof "${4}d" >/dev/null || echo "no daemon"'
probe objects 10 'command -v "$4" >/dev/null || exit 127
    found=$("$4" inspect "$2" "$1" 2>&1); status=$?; echo "$found"
    if grep -q "\"Running\": true" <<<"$found"; then echo programs; "$4" top "$1" -eo pid,comm; fi; exit $status'
probe base 10 '[ -n "$5" ] && "$4" image inspect --format "{{.Id}}" "$5"'
probe gpus 10 'command -v nvidia-smi >/dev/null || exit 127
    nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.used,driver_version --format=csv,noheader,nounits'
probe holders 10 'command -v nvidia-smi >/dev/null || exit 127
    nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,process_name --format=csv,noheader,nounits'
probe disk 5 'for place in /tmp "$3" /dev/shm; do
        case $place in /*) ;; *) continue ;; esac # a volume of docker'"'"'s own: on docker'"'"'s disk
        while [ ! -e "$place" ]; do place=$(dirname "$place"); done
        echo "disk $place $(df -Pk "$place" | tail -n 1)"
    done'
probe listeners 5 'ss -Hltnp || sudo -n ss -Hltnp'
probe kernel 5 'log=$(sudo -n dmesg -T || dmesg -T) || exit 1
    grep -E "NVRM|Out of memory|oom-kill|AER: Unc|IO_PAGE_FAULT|DMAR: |Hardware Error|EDAC|I/O error|read-only|fs error" <<<"$log" |
        tail -n 200; exit 0'
probe firewall 5 'for tool in ufw firewalld; do systemctl is-active "$tool" 2>/dev/null | grep -qx active && echo $tool; done; true'

print_section() { printf '\n%s %s\n%s\n%s = 0\n' "$mark" "$1" "$2" "$mark"; }
print_section system "$(. /etc/os-release; echo "id=$ID"; echo "like=$ID_LIKE"; echo "name=$PRETTY_NAME"; echo "user=$(id -un)"
    echo "hostname=$(hostname)"; echo "bashrc=$([ -e ~/.bashrc ] && echo yes)"
    echo "hook=$(command -v nvidia-container-runtime-hook || command -v nvidia-ctk)")"
print_section hardware "$(for device in /sys/bus/pci/devices/*; do
        [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
        case $(cat "$device/class") in 0x0300* | 0x0302*) ;; *) continue ;; esac
        echo "gpu $(cat "$device/device") $(cat "$device/iommu_group/type" 2>/dev/null)"
    done
    for device in /sys/class/infiniband/*; do
        [ ! -e "$device" ] || echo "rdma ${device##*/} $(cat "$device"/ports/1/link_layer 2>/dev/null)"
    done)"
print_section memory "$(cat /proc/meminfo)"
print_section sockets "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)"
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
