//! What the guest image and the programs on the desktop must agree on: ports, paths, device names, the files of the
//! seed, the readiness events and the image manifest. Nothing here does I/O.

pub mod control;
pub mod engine_options;
pub mod manifest;
pub mod readiness;
pub mod seed;
pub mod share;

/// TCP port of the engine's API (mutual TLS) inside a guest, and on a machine's own loopback address. The number is
/// the one docker-machine and dockerd use.
pub const API_PORT: u16 = 2376;
/// TCP port of sshd inside a guest.
pub const GUEST_SSH_PORT: u16 = 22;
/// TCP port of a machine's sshd on its loopback address on the desktop. Not 22: an unprivileged keeper cannot bind it.
pub const DESKTOP_SSH_PORT: u16 = 2222;

/// Serial number (`virtio-blk` `serial=`) of the read-only disk that carries the seed as a tar stream.
pub const SEED_DISK_SERIAL: &str = "berth-seed";
/// Serial number of the disk that holds the engine's data; formatted by the guest at its first boot.
pub const DATA_DISK_SERIAL: &str = "berth-data";
/// File system label the guest gives its data disk.
pub const DATA_DISK_LABEL: &str = "berth-data";
/// Name of the virtio-serial port (`virtserialport,name=`) that carries readiness events out and control lines in.
pub const CONTROL_PORT_NAME: &str = "dev.berth.control";

/// The longest that a container may take when its guest powers off, whatever stop timeout it asks for.
pub const STOP_TIMEOUT_SECONDS: u64 = 300;

/// Where the guest keeps the engine's data.
pub const DATA_ROOT: &str = "/var/lib/berth";
/// Where the guest keeps the engine's run-time state.
pub const EXEC_ROOT: &str = "/run/berth";
/// Where the guest unpacks the seed (a tmpfs; keys are 0600).
pub const SEED_DIR: &str = "/run/berth-seed";
/// The agent inside the image.
pub const AGENT_PATH: &str = "/usr/bin/host-agent";
/// Kernel modules to load before anything else (disk, network card, power button), in this order: one absolute path
/// of an uncompressed module a line, what a module needs stands above it. Load with `finit_module(fd, "", 0)`;
/// `EEXIST` is no failure.
pub const MODULES_BOOT_LIST: &str = "/etc/modules-boot";
/// Kernel modules the engine needs (overlay, bridge, nftables ...), written as [`MODULES_BOOT_LIST`] is. They may be
/// loaded while the disk is checked and the network gets its address. Modules in neither list are loaded by the kernel
/// itself through `/sbin/modprobe`.
pub const MODULES_ENGINE_LIST: &str = "/etc/modules-engine";
/// The signal (`SIGPWR`) by which a guest's `init` asks `serve` to stop all containers in order, as dockerd does at its
/// own end: restart policies keep their meaning at the next boot. `serve` then ends with code 0. Every other end of
/// `serve` leaves containers running.
pub const ENGINE_SHUTDOWN_SIGNAL: i32 = 30;
/// Unix socket of the engine, in guests and on any Linux host.
pub const API_SOCKET: &str = "/run/berth.sock";
/// Docker's own path, linked to [`API_SOCKET`] in guests so that tools inside find it.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Address of the desktop as seen from a guest on QEMU's user network.
pub const QEMU_HOST_ADDRESS: &str = "10.0.2.2";
/// Address QEMU's user network leases to the guest.
pub const QEMU_GUEST_ADDRESS: &str = "10.0.2.15";
/// Resolver of QEMU's user network.
pub const QEMU_DNS_ADDRESS: &str = "10.0.2.3";
