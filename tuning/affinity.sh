#!/usr/bin/env bash
# Spreads a network card over the CPUs, so that the CPU that takes a client's packets in is the one that answers:
# interrupts (one queue, one CPU), RPS where there are fewer queues than CPUs, XPS for what is sent.
#
#   tuning/affinity.sh eth0 [--cpus 0-7] [--apply]
#
# Without --apply it only prints what it would write, as commands. Nothing lasts over a boot: run it from a unit.
# Source: Documentation/networking/scaling.rst of the Linux kernel (RSS, RPS, XPS).
set -euo pipefail

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }

# Tests have another root.
root=${HERALD_ROOT:-}
interface='' cpus='' apply=no failed=0
while [ $# -gt 0 ]; do
  case $1 in
    --apply) apply=yes ;;
    --cpus) [ $# -gt 1 ] || usage; shift; cpus=$1 ;;
    -*) usage ;;
    *) [ -z "$interface" ] || usage; interface=$1 ;;
  esac
  shift
done
[ -n "$interface" ] || usage
device=$root/sys/class/net/$interface
[ -d "$device" ] || { echo "affinity.sh: there is no interface $interface (ip -br link shows them)" >&2; exit 64; }
[ -n "$cpus" ] || cpus=$(cat "$root/sys/devices/system/cpu/online")

# 0-2,5 → 0 1 2 5
numbers() {
  local part
  for part in ${1//,/ }; do
    [[ $part =~ ^[0-9]+(-[0-9]+)?$ ]] || { echo "affinity.sh: $1 is no list of CPUs like 0-3,8" >&2; exit 64; }
    seq "${part%-*}" "${part#*-}"
  done
}
numbers "$cpus" >/dev/null || exit 64
mapfile -t list < <(numbers "$cpus")
[ ${#list[@]} -gt 0 ] || { echo "affinity.sh: $cpus names no CPU" >&2; exit 64; }

# The kernel's form of a set of CPUs: hexadecimal, in groups of 32 bits from the highest.
mask() {
  local cpu groups=() group text=''
  for cpu in "$@"; do
    group=$((cpu / 32))
    groups[group]=$((${groups[group]:-0} | 1 << cpu % 32))
  done
  for ((group = ${#groups[@]} > 0 ? $(printf '%s\n' "${!groups[@]}" | sort -n | tail -1) : 0; group >= 0; group--)); do
    text+=${text:+,}$(printf '%08x' "${groups[group]:-0}")
  done
  echo "$text"
}

write() {
  local value=$1 file=$2
  [ -e "$file" ] || return 0
  if [ $apply = yes ]; then
    { echo "$value" >"$file"; } 2>/dev/null || { echo "affinity.sh: $file does not take $value" >&2; failed=1; }
  else
    echo "echo $value > ${file#"$root"}"
  fi
}

# Interrupts of the card's queues, in their order.
interrupts() {
  local place
  # A virtio card is a device on top of the one that has the interrupts.
  for place in "$device/device/msi_irqs" "$device/device/../msi_irqs"; do
    if [ -d "$place" ]; then
      ls "$place" | sort -n
      return
    fi
  done
  awk -v name="$interface" '$0 ~ name {sub(":", "", $1); print $1}' "$root/proc/interrupts" 2>/dev/null || true
}
mapfile -t irqs < <(interrupts)
receive=("$device"/queues/rx-*)
send=("$device"/queues/tx-*)
# Some cards have one more, for the card itself: the queues' come behind it. Others have two for each queue, one for
# what is received and one for what was sent, side by side.
surplus=$((${#irqs[@]} % ${#receive[@]}))
each=$((${#irqs[@]} / ${#receive[@]}))
at=0
for irq in "${irqs[@]:surplus}"; do
  write "${list[at / each % ${#list[@]}]}" "$root/proc/irq/$irq/smp_affinity_list"
  at=$((at + 1))
done
[ $at -gt 0 ] || echo "affinity.sh: no interrupts of $interface found: RPS alone spreads what it receives" >&2

# Few queues: the kernel passes packets on. With a queue for each CPU that would only cost, and gateway.steer = "cpu"
# wants them to stay where they came in.
for queue in "${receive[@]}"; do
  if [ ${#receive[@]} -lt ${#list[@]} ]; then
    write "$(mask "${list[@]}")" "$queue/rps_cpus"
  else
    write 0 "$queue/rps_cpus"
  fi
done

# What a CPU sends leaves by a queue of its own.
at=0
for queue in "${send[@]}"; do
  mine=()
  for ((place = at; place < ${#list[@]}; place += ${#send[@]})); do mine+=("${list[place]}"); done
  [ ${#mine[@]} -gt 0 ] && write "$(mask "${mine[@]}")" "$queue/xps_cpus"
  at=$((at + 1))
done

if pgrep -x irqbalance >/dev/null 2>&1; then
  echo "affinity.sh: irqbalance runs and will undo this: systemctl disable --now irqbalance" >&2
fi
[ $apply = yes ] || echo "nothing was changed: --apply writes it" >&2
exit $failed
