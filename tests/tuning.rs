//! What `tuning/` does to a host, on a make-believe one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// A card with so many queues, and two interrupts for each behind one of its own.
fn card(queues: usize, cpus: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let file = |path: PathBuf, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let device = Path::new("sys/class/net/eth7");
    for queue in 0..queues {
        file(device.join(format!("queues/rx-{queue}/rps_cpus")), "f\n");
        file(device.join(format!("queues/tx-{queue}/xps_cpus")), "0\n");
    }
    for irq in 90..=90 + 2 * queues {
        file(device.join(format!("device/msi_irqs/{irq}")), "msix\n");
        file(format!("proc/irq/{irq}/smp_affinity_list").into(), "0-7\n");
    }
    file("sys/devices/system/cpu/online".into(), cpus);
    root
}

fn affinity(root: &TempDir, arguments: &[&str]) -> Output {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/affinity.sh"))
        .args(arguments)
        .env("HERALD_ROOT", root.path())
        .output()
        .unwrap()
}

fn read(root: &TempDir, path: &str) -> String {
    let text = fs::read_to_string(root.path().join(path)).unwrap();
    text.trim().to_owned()
}

#[test]
fn each_queue_gets_a_cpu_and_packets_stay_where_they_came_in() {
    let root = card(4, "0-3\n");
    let done = affinity(&root, &["eth7", "--apply"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(read(&root, "proc/irq/90/smp_affinity_list"), "0-7");
    for queue in 0..4 {
        for irq in [91 + 2 * queue, 92 + 2 * queue] {
            let path = format!("proc/irq/{irq}/smp_affinity_list");
            assert_eq!(read(&root, &path), queue.to_string(), "{path}");
        }
        let queues = format!("sys/class/net/eth7/queues/rx-{queue}/rps_cpus");
        assert_eq!(read(&root, &queues), "0");
        let queues = format!("sys/class/net/eth7/queues/tx-{queue}/xps_cpus");
        assert_eq!(read(&root, &queues), format!("{:08x}", 1 << queue));
    }
}

#[test]
fn with_fewer_queues_than_cpus_the_kernel_passes_packets_on() {
    let root = card(2, "0-35\n");
    affinity(&root, &["eth7", "--cpus", "0-3,33", "--apply"]);
    let queues = |queue: &str| read(&root, &format!("sys/class/net/eth7/queues/{queue}"));
    assert_eq!(queues("rx-1/rps_cpus"), "00000002,0000000f");
    assert_eq!(queues("tx-0/xps_cpus"), "00000002,00000005");
    assert_eq!(queues("tx-1/xps_cpus"), "0000000a");
}

#[test]
fn without_being_told_to_apply_it_only_says_what_it_would_do() {
    let root = card(2, "0-1\n");
    let said = affinity(&root, &["eth7"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("echo 1 > /proc/irq/94/smp_affinity_list\n"),
        "{said}"
    );
    assert_eq!(read(&root, "proc/irq/94/smp_affinity_list"), "0-7");
    assert_eq!(read(&root, "sys/class/net/eth7/queues/rx-0/rps_cpus"), "f");
}

/// There the interface is of a device on top of the one that has the interrupts.
#[test]
fn interrupts_of_a_virtio_card_are_found() {
    let root = card(2, "0-1\n");
    let path = |path: &str| root.path().join(path);
    let above = "sys/devices/pci0/virtio1";
    fs::create_dir_all(path(above)).unwrap();
    let below = "sys/class/net/eth7/device";
    fs::rename(
        path(below).join("msi_irqs"),
        path("sys/devices/pci0/msi_irqs"),
    )
    .unwrap();
    fs::remove_dir(path(below)).unwrap();
    std::os::unix::fs::symlink(path(above), path(below)).unwrap();
    let done = affinity(&root, &["eth7", "--apply"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(read(&root, "proc/irq/94/smp_affinity_list"), "1");
}

#[test]
fn what_can_not_be_written_fails() {
    let root = card(2, "0-1\n");
    let taken = root.path().join("proc/irq/94/smp_affinity_list");
    fs::remove_file(&taken).unwrap();
    fs::create_dir(&taken).unwrap();
    assert_eq!(affinity(&root, &["eth7", "--apply"]).status.code(), Some(1));
}

#[test]
fn what_it_does_not_understand_is_refused() {
    let root = card(1, "0\n");
    for arguments in [
        &[][..],
        &["eth9"],
        &["eth7", "--cpus", "all"],
        &["eth7", "--cpus", "0-1,x"],
        &["eth7", "--cpus", "5-2"],
        &["eth7", "--cpus"],
        &["eth7", "--now"],
    ] {
        assert_eq!(
            affinity(&root, arguments).status.code(),
            Some(64),
            "{arguments:?}"
        );
    }
}
