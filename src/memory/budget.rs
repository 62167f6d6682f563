//! What this host grants: its memory, or less where a control group says so.

use crate::{limits, sys};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The least of the machine's memory and the limits of this process's control groups, up to the root.
/// `root` is `/`, but in tests.
pub fn granted(root: &Path) -> u64 {
    let files = ["memory.max", "memory.high", "memory.limit_in_bytes"];
    let limits = files
        .iter()
        .filter_map(|file| least_group_limit(root, "memory", file));
    limits.chain(machine_bytes(root)).min().unwrap_or(u64::MAX)
}

/// How much of what is granted newcomers may fill: as much as is configured, if there is as much.
pub fn share(configured: u64, granted: u64) -> u64 {
    match configured {
        0 => granted / 100 * limits::MEMORY_BUDGET_PERCENT,
        bytes => bytes.min(granted),
    }
}

/// The same as [`granted`] without the machine: `None` where no group limits it.
pub fn group_limit(root: &Path) -> Option<u64> {
    let machine = machine_bytes(root).unwrap_or(u64::MAX);
    Some(granted(root)).filter(|granted| *granted < machine)
}

/// The least that a file says in the control groups this process is in, from its own up to the root: of version
/// 2 and, by its controller's name, of version 1.
pub fn least_group_limit(root: &Path, controller: &str, file: &str) -> Option<u64> {
    let groups = own_and_above(root, controller);
    let limits = groups.iter().filter_map(|group| limit(&group.join(file)));
    limits.min()
}

/// Thousandths of a CPU that those groups grant, of which the least counts.
pub fn group_cpus_milli(root: &Path) -> Option<u64> {
    let groups = own_and_above(root, "cpu");
    let grants = groups.iter().filter_map(|group| {
        let read = |file: &str| fs::read_to_string(group.join(file)).ok();
        // "max", and -1 of version 1, is none.
        let text = read("cpu.max")
            .or_else(|| Some(read("cpu.cfs_quota_us")? + " " + &read("cpu.cfs_period_us")?))?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        quota.saturating_mul(1_000).checked_div(period)
    });
    grants.min()
}

fn own_and_above(root: &Path, controller: &str) -> Vec<PathBuf> {
    let v2 = root.join("sys/fs/cgroup");
    let v1 = v2.join(controller);
    let own = own_groups(root, controller);
    [groups(&v2, &own.v2), groups(&v1, &own.v1)].concat()
}

/// Bytes that TCP sockets may hold together: the kernel takes none beyond. `u64::MAX` where it is not said, as in a
/// network namespace that is not the first.
pub fn tcp_bytes_max(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/sys/net/ipv4/tcp_mem")).unwrap_or_default();
    let pages = text.split_whitespace().nth(2);
    let pages = pages.and_then(|pages| pages.parse::<u64>().ok());
    pages.map_or(u64::MAX, |pages| pages.saturating_mul(sys::page_bytes()))
}

/// `MemTotal`.
pub fn machine_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The group's directory and all above it. In a container the path is the host's and not to be seen: then the
/// mount itself is the group.
fn groups(mount: &Path, own: &str) -> Vec<PathBuf> {
    let group = mount.join(own.trim_start_matches('/'));
    let group = if group.is_dir() {
        group
    } else {
        mount.to_owned()
    };
    let within = |path: &&Path| path.starts_with(mount);
    group
        .ancestors()
        .take_while(within)
        .map(Path::to_owned)
        .collect()
}

/// Paths of this process's groups.
#[derive(Default)]
struct OwnGroups {
    v2: String,
    v1: String,
}

/// `0::/path` of version 2, `4:cpu,memory:/path` of version 1.
fn own_groups(root: &Path, controller: &str) -> OwnGroups {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut own = OwnGroups::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        if controllers.is_empty() {
            own.v2 = path.to_owned();
        } else if controllers.split(',').any(|name| name == controller) {
            own.v1 = path.to_owned();
        }
    }
    own
}

/// `max`, or version 1's number beyond every machine, is none.
fn limit(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let number: u64 = text.trim().parse().ok()?;
    (number < 1 << 60).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn host(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    #[test]
    fn without_groups_it_is_the_machine() {
        let root = host(&[MEMINFO]);
        assert_eq!(granted(root.path()), 16 << 20);
        assert_eq!(group_limit(root.path()), None);
    }

    #[test]
    fn cpus_are_granted_by_the_narrowest_group_of_either_version() {
        let group = ("proc/self/cgroup", "0::/a/b\n");
        let of = |files: &[(&str, &str)]| group_cpus_milli(host(files).path());
        assert_eq!(of(&[group]), None);
        assert_eq!(
            of(&[group, ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")]),
            None
        );
        let narrow = ("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        let wide = ("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
        assert_eq!(of(&[group, narrow, wide]), Some(1_500));
        let v1 = [
            ("proc/self/cgroup", "4:cpu,cpuacct:/a\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(of(&v1), Some(2_000));
    }

    #[test]
    fn of_a_group_and_those_above_it_the_least_counts() {
        let root = host(&[
            MEMINFO,
            (
                "proc/self/cgroup",
                "0::/system.slice/herald-gateway.service\n",
            ),
            ("sys/fs/cgroup/system.slice/memory.max", "8388608\n"),
            (
                "sys/fs/cgroup/system.slice/herald-gateway.service/memory.max",
                "max\n",
            ),
            (
                "sys/fs/cgroup/system.slice/herald-gateway.service/memory.high",
                "9437184\n",
            ),
        ]);
        assert_eq!(group_limit(root.path()), Some(8 << 20));
    }

    #[test]
    fn version_1_is_understood_beside_version_2() {
        let root = host(&[
            MEMINFO,
            (
                "proc/self/cgroup",
                "9:name=systemd:/\n4:cpu,memory:/pod\n0::/\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            (
                "sys/fs/cgroup/memory/pod/memory.limit_in_bytes",
                "4194304\n",
            ),
        ]);
        assert_eq!(granted(root.path()), 4 << 20);
    }

    #[test]
    fn in_a_container_that_does_not_see_its_path_the_mount_is_the_group() {
        let root = host(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/kubepods/pod1\n"),
            ("sys/fs/cgroup/memory.max", "2097152\n"),
        ]);
        assert_eq!(granted(root.path()), 2 << 20);
    }
}
