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

/// What `ip netns exec` puts in place of files of `/etc`, by namespace: machines ask
/// the test for names, if it has a name server, and nobody else.
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
        let inside = format!("ip netns exec {name}");
        let tools = ["tc qdisc", "ss -t", "nft add table inet t"];
        let made = try_run(&format!("ip netns add {name}"), "").is_ok();
        let works = made
            && tools
                .iter()
                .all(|tool| try_run(&format!("{inside} {tool}"), "").is_ok());
        if made {
            remove(&name);
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
        run(&format!("ip netns add {name}"));
        let network = Self(Arc::new(Shared {
            name: name.clone(),
            hosts: Mutex::default(),
        }));
        run(&format!("ip -n {name} link set lo up"));
        run(&format!("ip -n {name} link add switch type bridge"));
        run(&format!("ip -n {name} link set switch up"));
        network.here(Self::HERE);
        network
    }

    /// Gives the test itself one more address.
    pub fn here(&self, ip: Ipv4Addr) {
        run(&format!(
            "ip -n {} addr add {ip}/24 dev switch",
            self.0.name
        ));
    }

    /// Adds a machine.
    pub fn host(&self) -> Host {
        let mut hosts = lock(&self.0.hosts);
        let number = u8::try_from(hosts.len() + 10).expect("tests have few machines");
        let network = self.0.name.clone();
        let namespace = format!("{network}-{number}");
        run(&format!("ip netns add {namespace}"));
        hosts.push(namespace.clone());
        drop(hosts);
        let (ip, port) = (Ipv4Addr::new(10, 77, 0, number), format!("port{number}"));
        let gateway = Self::HERE;
        run(&format!(
            "ip -n {network} link add {port} type veth peer name eth0 netns {namespace}"
        ));
        run(&format!("ip -n {network} link set {port} master switch up"));
        run(&format!("ip -n {namespace} link set lo up"));
        run(&format!("ip -n {namespace} addr add {ip}/24 dev eth0"));
        run(&format!("ip -n {namespace} link set eth0 up"));
        run(&format!(
            "ip -n {namespace} route add default via {gateway}"
        ));
        let files = Path::new(NAMESPACE_FILES).join(&namespace);
        fs::create_dir_all(&files).expect("root may make the directory");
        let resolver = format!("nameserver {gateway}\noptions timeout:1 attempts:1\n");
        fs::write(files.join("resolv.conf"), resolver).expect("root may write the file");
        Host {
            network,
            namespace,
            port,
            ip,
        }
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
        let command = format!("ip netns exec {} nft -f -", self.namespace);
        try_run(&command, &script).unwrap_or_else(|error| panic!("{script}: {error}"));
    }

    /// Lets every packet pass.
    pub fn heal(&self) {
        run(&format!(
            "ip netns exec {} nft flush ruleset",
            self.namespace
        ));
    }

    /// Limits what reaches it to so many kilobits a second.
    pub fn slow_down(&self, kilobits: u32) {
        let Self { network, port, .. } = self;
        run(&format!(
            "tc -n {network} qdisc add dev {port} root tbf rate {kilobits}kbit burst 4kb latency 300ms"
        ));
    }

    /// Lifts the limit.
    pub fn speed_up(&self) {
        let Self { network, port, .. } = self;
        run(&format!("tc -n {network} qdisc del dev {port} root"));
    }

    /// Destroys its connections with another machine.
    pub fn reset_connections_with(&self, other: &Host) {
        let command = format!("ip netns exec {} ss -K dst {}", self.namespace, other.ip);
        // Says so if there is none, which is no failure.
        let _ = try_run(&command, "");
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
    let _ = try_run(&format!("ip netns del {namespace}"), "");
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

fn run(command: &str) {
    try_run(command, "").unwrap_or_else(|error| panic!("{command}: {error}"));
}

/// Runs a command, written as in a shell without quotes.
fn try_run(command: &str, input: &str) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap_or_default())
        .args(words)
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
