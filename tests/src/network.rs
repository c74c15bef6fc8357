//! Machines of a test's own: network namespaces around one switch.
//!
//! Whatever listens or connects in them has addresses that exist nowhere else, so
//! packets can be dropped, refused and slowed down without touching anybody.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    net::Ipv4Addr,
    os::fd::AsFd,
    panic::resume_unwind,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::lock;

/// Where named network namespaces are.
const NAMESPACES: &str = "/run/netns";

/// What `ip netns exec` puts in place of files of `/etc`, by namespace.
const NAMESPACE_FILES: &str = "/etc/netns";

/// How all namespaces of these tests begin; the process id follows.
const PREFIX: &str = "qcc-test-";

/// A switch with the test itself at it, and machines around it. Clones are the same
/// network; the last one takes everything down.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

struct Shared {
    name: String,
    hosts: Mutex<Vec<String>>,
}

/// A machine at the switch.
#[derive(Clone)]
pub struct Host {
    network: String,
    namespace: String,
    port: String,
    ip: Ipv4Addr,
}

impl Network {
    /// Where the test itself is, with its clients and upstreams.
    pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    /// Whether this machine lets a test have networks.
    pub fn possible() -> bool {
        let name = unique();
        let made = try_run("ip", &["netns", "add", &name], "").is_ok();
        let works = made
            && try_run("ip", &["netns", "exec", &name, "tc", "qdisc"], "").is_ok()
            && try_run("ip", &["netns", "exec", &name, "ss", "-t"], "").is_ok()
            && try_run(
                "ip",
                &["netns", "exec", &name, "nft", "add table inet t"],
                "",
            )
            .is_ok();
        if made {
            // A name that stays behind is found by `sweep`.
            let _ = try_run("ip", &["netns", "del", &name], "");
        }
        works
    }

    /// Runs a story at the switch of a new network: sockets that it opens, and
    /// processes that it starts, are there.
    pub fn run(story: impl AsyncFnOnce(Network) + Send) {
        sweep();
        let network = Self::new();
        let switch = File::open(Path::new(NAMESPACES).join(&network.0.name));
        let switch = switch.expect("the namespace has a file");
        let story = {
            let network = network.clone();
            move || {
                let network_only = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(switch.as_fd(), network_only)
                    .expect("root may enter the namespace");
                // One thread only: namespaces belong to threads.
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().expect("a runtime");
                runtime.block_on(story(network));
            }
        };
        let end = std::thread::scope(|scope| scope.spawn(story).join());
        drop(network);
        if let Err(panic) = end {
            resume_unwind(panic);
        }
    }

    fn new() -> Self {
        let name = unique();
        run("ip", &["netns", "add", &name], "");
        let network = Self(Arc::new(Shared {
            name: name.clone(),
            hosts: Mutex::default(),
        }));
        run("ip", &["-n", &name, "link", "set", "lo", "up"], "");
        run(
            "ip",
            &["-n", &name, "link", "add", "switch", "type", "bridge"],
            "",
        );
        network.here(Self::HERE);
        run("ip", &["-n", &name, "link", "set", "switch", "up"], "");
        network
    }

    /// Gives the test itself one more address.
    pub fn here(&self, ip: Ipv4Addr) {
        let address = format!("{ip}/24");
        let name = &self.0.name;
        run(
            "ip",
            &["-n", name, "addr", "add", &address, "dev", "switch"],
            "",
        );
    }

    /// Adds a machine.
    pub fn host(&self) -> Host {
        let mut hosts = lock(&self.0.hosts);
        let number = u8::try_from(hosts.len() + 10).expect("tests have few machines");
        let name = &self.0.name;
        let host = Host {
            network: name.clone(),
            namespace: format!("{name}-{number}"),
            port: format!("port{number}"),
            ip: Ipv4Addr::new(10, 77, 0, number),
        };
        run("ip", &["netns", "add", &host.namespace], "");
        hosts.push(host.namespace.clone());
        drop(hosts);
        let Host {
            namespace,
            port,
            ip,
            ..
        } = &host;
        run(
            "ip",
            &[
                "-n", name, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns",
                namespace,
            ],
            "",
        );
        run(
            "ip",
            &["-n", name, "link", "set", port, "master", "switch", "up"],
            "",
        );
        run(
            "ip",
            &[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{ip}/24"),
                "dev",
                "eth0",
            ],
            "",
        );
        run("ip", &["-n", namespace, "link", "set", "eth0", "up"], "");
        run("ip", &["-n", namespace, "link", "set", "lo", "up"], "");
        host
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for namespace in lock(&self.hosts).iter().chain([&self.name]) {
            remove(namespace);
        }
    }
}

impl Host {
    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Treats packets that leave it by these rules of nftables, and by no other. Each
    /// ends with a verdict; what none is about passes.
    pub fn sends(&self, rules: &[&str]) {
        self.filter("output", rules);
    }

    /// Treats packets that reach it by these rules, and by no other.
    pub fn receives(&self, rules: &[&str]) {
        self.filter("input", rules);
    }

    fn filter(&self, hook: &str, rules: &[&str]) {
        let mut script = format!(
            "add table inet {hook}\ndelete table inet {hook}\ntable inet {hook} {{\n\
             chain packets {{\ntype filter hook {hook} priority 0\n"
        );
        for rule in rules {
            let _ = writeln!(script, "{rule}");
        }
        script.push_str("}\n}\n");
        run(
            "ip",
            &["netns", "exec", &self.namespace, "nft", "-f", "-"],
            &script,
        );
    }

    /// Lets every packet pass.
    pub fn heal(&self) {
        run(
            "ip",
            &["netns", "exec", &self.namespace, "nft", "flush", "ruleset"],
            "",
        );
    }

    /// Limits what reaches it to so many kilobits a second.
    pub fn slow_down(&self, kilobits: u32) {
        let rate = format!("{kilobits}kbit");
        run(
            "tc",
            &[
                "-n",
                &self.network,
                "qdisc",
                "replace",
                "dev",
                &self.port,
                "root",
                "tbf",
                "rate",
                &rate,
                "burst",
                "4kb",
                "latency",
                "300ms",
            ],
            "",
        );
    }

    /// Lifts the limit.
    pub fn speed_up(&self) {
        run(
            "tc",
            &[
                "-n",
                &self.network,
                "qdisc",
                "del",
                "dev",
                &self.port,
                "root",
            ],
            "",
        );
    }

    /// Destroys its connections with another machine, at both ends.
    pub fn reset_connections_with(&self, other: &Host) {
        let peer = other.ip.to_string();
        // Says so if there is none, which is no failure.
        let _ = try_run(
            "ip",
            &["netns", "exec", &self.namespace, "ss", "-K", "dst", &peer],
            "",
        );
    }

    /// Puts a text in place of a file of `/etc` for what is started here from now on.
    pub fn etc(&self, file: &str, text: &str) {
        let directory = Path::new(NAMESPACE_FILES).join(&self.namespace);
        fs::create_dir_all(&directory).expect("root may make the directory");
        fs::write(directory.join(file), text).expect("root may write the file");
    }
}

/// A name that no other test has.
fn unique() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    format!("{PREFIX}{}-{number}", std::process::id())
}

fn remove(namespace: &str) {
    // Both fail only for what was not made.
    let _ = try_run("ip", &["netns", "del", namespace], "");
    let _ = fs::remove_dir_all(Path::new(NAMESPACE_FILES).join(namespace));
}

/// Removes what tests have left behind that were killed.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove(&name);
        }
    }
}

fn run(program: &str, arguments: &[&str], input: &str) {
    if let Err(error) = try_run(program, arguments, input) {
        panic!("{program} {}: {error}", arguments.join(" "));
    }
}

fn try_run(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // What does not read its input has its own words for it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
