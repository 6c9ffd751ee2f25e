#!/bin/bash
# Stands for nvidia-smi on a rig's host, which has no GPU: answers what raylaunch asks, in the real one's format.
# What the machine "has" is in /etc/rig-gpus (shell variables); an empty count is a driver that is not loaded.
COUNT=8 NAME="NVIDIA L4" MEMORY_MIB=23034 USED_MIB=0 DRIVER=580.95.05 CUDA=13.0 HOLDER=
[ -r /etc/rig-gpus ] && . /etc/rig-gpus
if [ -z "$COUNT" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA" \
        "driver is installed and running."
    echo
    exit 9
fi
host=$(cksum </proc/sys/kernel/hostname)
uuid() { printf -v uuid 'GPU-%08x-0000-4000-8000-%012x' "${host%% *}" "$1"; }
case "$*" in
-L)
    for ((i = 0; i < COUNT; i++)); do uuid $i; echo "GPU $i: $NAME (UUID: $uuid)"; done ;;
--query-gpu=index,uuid,name,memory.total,memory.used,driver_version\ --format=csv,noheader,nounits)
    for ((i = 0; i < COUNT; i++)); do uuid $i; echo "$i, $uuid, $NAME, $MEMORY_MIB, $USED_MIB, $DRIVER"; done ;;
--query-compute-apps=gpu_uuid,pid,used_memory,process_name\ --format=csv,noheader,nounits)
    if [ -n "$HOLDER" ]; then
        for ((i = 0; i < COUNT; i++)); do uuid $i; echo "$uuid, $HOLDER, $USED_MIB, python3"; done
    fi ;;
"")
    echo "+-----------------------------------------------------------------------------------------+"
    printf '| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-9s|\n' "$DRIVER" "$DRIVER" "$CUDA"
    echo "+-----------------------------------------+------------------------+----------------------+" ;;
*)
    echo "Invalid combination of input arguments. Please run 'nvidia-smi -h' for help." >&2
    exit 2 ;;
esac
