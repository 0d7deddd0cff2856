//! Hosts on one machine: a network namespace for each node, a switch between them that fails as the test says, and a door from
//! the test to each.
//!
//! ```text
//!   namespace fo-net-77-0-1              namespace fo-net-77-0-2
//!     node 1 on 10.77.0.1 ── fo0 (TAP) ── Switch ── fo0 (TAP) ── node 2 on 10.77.0.2      mutual TLS between them
//!       127.0.0.1:port                                127.0.0.1:port
//!          ▲ Door: a thread with a foot in each          ▲
//!       127.0.0.1:port of the test ─────────────────────┴── clients, command lines: as without any of this
//! ```
//!
//! So what reaches a node from its clients never fails, and what fails is the network between nodes: real frames, real TCP.
//!
//! It takes the right to make namespaces (root), `ip`, and TAP devices; where one is missing the stories say so and end. What a
//! killed test leaves behind, the next one takes away: the names begin with `fo-net-` and the test's process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl, opcode};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authority::{Authority, has_openssl};
use crate::count;
use crate::line::text;
use crate::site::Site;
use crate::switch::{Switch, hardware};

const PREFIX: &str = "fo-net-";
const DEVICE: &str = "fo0";
/// Where every node listens for its peers.
const PEER_PORT: u16 = 7_401;

/// Runs something in another network; what it opens and starts stays there.
///
/// # Panics
/// It does, or the network cannot be entered.
pub fn within<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    // Only this thread goes there, and it ends with the work.
    let done = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(namespace).unwrap_or_else(|error| panic!("{}: {error}", namespace.display()));
                work()
            })
            .join()
    });
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn enter(namespace: &Path) -> io::Result<()> {
    let file = File::open(namespace)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    let ended = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let told = || format!("ip {}: {}", arguments.join(" "), text(&ended.stderr).trim());
    if ended.status.success() { Ok(text(&ended.stdout)) } else { Err(told()) }
}

/// A TAP device of the network that this thread is in; it goes away with the file.
#[allow(unsafe_code, reason = "a device gets its name and kind by an ioctl that no safe interface has")]
fn tap() -> Result<File, String> {
    /// `struct ifreq` as far as TUNSETIFF reads it, and as long as the kernel copies it.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const IFF_TAP: u16 = 0x0002;
    const IFF_NO_PI: u16 = 0x1000;
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun");
    let file = file.map_err(|error| format!("/dev/net/tun: {error}"))?;
    let mut name = [0; 16];
    name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    let request = Request { name, flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, 40 bytes, which this is; it reads and changes nothing beyond.
    let made = unsafe { ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)) };
    made.map_err(|error| format!("TUNSETIFF: {error}"))?;
    Ok(file)
}

/// One host: its namespace, which goes with it.
#[derive(Debug)]
struct Host {
    name: String,
}

impl Host {
    /// Makes it, with its device, its addresses, and everything up.
    fn make(name: String, host: u8) -> Result<(Self, File), String> {
        ip(&["netns", "add", &name])?;
        let own = Self { name };
        let name = own.name.as_str();
        let device = within(&own.path(), tap)?;
        let hardware = hardware(host).map(|byte| format!("{byte:02x}")).join(":");
        ip(&["-n", name, "link", "set", DEVICE, "address", &hardware])?;
        ip(&["-n", name, "address", "add", &format!("{}/24", address(host)), "dev", DEVICE])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", DEVICE, "up"])?;
        Ok((own, device))
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(why) = ip(&["netns", "delete", &self.name]) {
            println!("left behind: {why}");
        }
    }
}

/// Takes away what tests left behind that do not run any more.
fn sweep() {
    let Ok(list) = ip(&["netns", "list"]) else { return };
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let of = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if of.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Nodes whose test was killed are in nobody's hands.
            let nodes = ip(&["netns", "pids", name]).unwrap_or_default();
            for node in nodes.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
                let _ = kill_process(node, Signal::KILL);
            }
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// Where a host is reached by the others.
#[must_use]
pub fn address(host: u8) -> String {
    format!("10.77.0.{host}")
}

/// A port of the test that leads to the same port on a host's loopback.
#[derive(Debug)]
struct Door {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(port: u16, namespace: PathBuf) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        // A socket stays in the network in which it was made: this one here, and those to come there.
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            enter(&namespace).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                let mut open = JoinSet::new();
                loop {
                    tokio::select! {
                        _ = stopped.wait_for(|stopped| *stopped) => return,
                        Some(_) = open.join_next() => {}
                        come = listener.accept() => if let Ok((mut outer, _)) = come {
                            open.spawn(async move {
                                // Nobody there: whoever came finds the connection closed.
                                let Ok(mut inner) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                                let _ = (outer.set_nodelay(true), inner.set_nodelay(true));
                                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                            });
                        }
                    }
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Hosts 1, 2, 3 and so on, and the switch between them.
#[derive(Debug)]
pub struct Network {
    doors: Vec<Door>,
    /// What fails.
    pub switch: Switch,
    hosts: Vec<Host>,
    folder: TempDir,
}

impl Network {
    /// So many hosts; nothing where they cannot be made, and a line that says why.
    #[must_use]
    pub fn of(hosts: u8) -> Option<Self> {
        if !has_openssl() {
            return None;
        }
        sweep();
        match Self::make(hosts) {
            Ok(network) => Some(network),
            Err(why) => {
                println!(
                    "skipped: networks cannot be made here, which takes root, ip and TAP devices: {why}"
                );
                None
            }
        }
    }

    fn make(count_of_hosts: u8) -> Result<Self, String> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let (mut hosts, mut taps) = (Vec::new(), Vec::new());
        for host in 1..=count_of_hosts {
            let (own, device) = Host::make(format!("{PREFIX}{}-{made}-{host}", std::process::id()), host)?;
            hosts.push(own);
            taps.push((host, device));
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        drop(Authority::new(folder.path(), "ca"));
        let switch = Switch::start(taps, count("FEATUREOPS_SEED", 1));
        Ok(Self { doors: Vec::new(), switch, hosts, folder })
    }

    /// Puts a site's lives to come on a host, with certificates between it and the others.
    ///
    /// # Panics
    /// There is no such host.
    pub fn place(&mut self, site: &mut Site, host: u8) {
        let namespace = self.hosts[usize::from(host) - 1].path();
        self.doors.push(Door::open(site.port, namespace.clone()));
        site.place(namespace);
        let authority = Authority::at(self.folder.path(), "ca");
        let (name, days) = (format!("host-{host}"), 300);
        let (cert, key) = authority.sign_for(&name, &format!("IP:{}", address(host)), days);
        site.set("FEATUREOPS_PEER_LISTEN", format!("{}:{PEER_PORT}", address(host)));
        site.set("FEATUREOPS_PEER_TLS_CERT", cert);
        site.set("FEATUREOPS_PEER_TLS_KEY", key);
        site.set("FEATUREOPS_PEER_TLS_CA", authority.path("ca.pem"));
    }
}
