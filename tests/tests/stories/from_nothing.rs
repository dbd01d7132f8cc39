//! From nothing to a cluster: what `tandem config init` writes starts as it is.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tandem_runtime::config::TlsFiles;
use tandem_runtime::io::tls::peer_client_config;
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_tests::cluster::{Addresses, DEADLINE, binary, status_of};
use tandem_tests::peers::stranger::{Letter, Stranger};
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::ServerName;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_command_writes_starts_as_a_cluster_with_mutual_tls() {
    let mut office = Office::start().await;
    members_speak_tls(&office.hosts, &office.new).await;
    pairs_speak_tls(&office.hosts, &office.new).await;
    office.answers_clients().await;
    office.dismiss();
}

/// Bundles first, then one member after the other, then the new authority alone: clients notice nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_of_the_members_is_replaced_while_they_run() {
    let mut office = Office::start().await;
    let authorities = office.new.join("authorities");
    tandem(&format!("pki init --renew peers --out {}", authorities.display()));
    office
        .put_on_every_machine(&authorities.join("peer-ca.pem"))
        .await;
    for machine in MACHINES {
        let id = machine.member;
        let out = office.new.join(machine.name);
        let renew = format!(
            "pki renew --member {id} --authorities {} --out",
            authorities.display()
        );
        tandem(&format!("{renew} {}", out.display()));
        office
            .shows_certificate_of(&authorities.join("peers.pem"), machine)
            .await;
        office.answers_clients().await;
    }
    office.put_on_every_machine(&authorities.join("peers.pem")).await;
    members_speak_tls(&office.hosts, &office.new).await;
    pairs_speak_tls(&office.hosts, &office.new).await;
    // What the former authority has signed counts no more: the front end showed this before.
    let former = TlsFiles {
        certificate: office.new.join("lb-1/peer.pem.1"),
        key: office.new.join("lb-1/peer.key.1"),
        ..certificate(&office.new, "lb-1")
    };
    assert!(!is_served_as_front_end(&office.hosts, &former).await);
    office.answers_clients().await;
    office.dismiss();
}

/// Whoever has no certificate, or another member's, does not get through to a member.
async fn members_speak_tls(hosts: &Hosts, new: &Path) {
    let own = peer_client_config(&certificate(new, "lb-1")).unwrap();
    for (member, place) in [
        ("n1.office.tandem", hosts.at(hosts.nodes[0], 7000)),
        ("n2.office.tandem", hosts.at(hosts.nodes[1], 7000)),
        ("n100.office.tandem", hosts.at(hosts.front_end, 7000)),
    ] {
        let name = ServerName::try_from(member).unwrap();
        Stranger::connect_tls(place, name, own.clone()).await.unwrap();
        let other = ServerName::try_from("n7.office.tandem").unwrap();
        assert!(
            Stranger::connect_tls(place, other, own.clone()).await.is_err(),
            "{member}"
        );
    }
}

/// A node takes sessions from front ends over TLS, and from nobody in plaintext.
async fn pairs_speak_tls(hosts: &Hosts, new: &Path) {
    let mut plain = Stranger::connect(hosts.at(hosts.nodes[0], 5060)).await.unwrap();
    plain.send_as_much_as_possible(&opening(hosts)).await;
    // What it gets is an alert of TLS.
    assert!(!matches!(plain.answer(DEADLINE).await, Ok(Some(_))));
    assert!(is_served_as_front_end(hosts, &certificate(new, "lb-1")).await);
}

/// Whether node-1 answers a client's request on a pair with this certificate.
async fn is_served_as_front_end(hosts: &Hosts, files: &TlsFiles) -> bool {
    let config = peer_client_config(files).unwrap();
    let name = ServerName::try_from("n1.office.tandem").unwrap();
    let node = hosts.at(hosts.nodes[0], 5060);
    let mut front_end = Stranger::connect_tls(node, name, config).await.unwrap();
    front_end.send_as_much_as_possible(&opening(hosts)).await;
    matches!(front_end.answer(DEADLINE).await, Ok(Some(_)))
}

/// What a front end sends first on a pair, and a request of its client.
fn opening(hosts: &Hosts) -> Vec<u8> {
    let vip = hosts.at(hosts.front_end, 5060);
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: vip,
        destination: vip,
        transport: Transport::Tcp,
        connection_id: None,
        peer: None,
        purpose: Purpose::Pair,
        host_name: None,
    });
    let request = Letter::invite("joe", "tel:4711;phone-context=dialstring");
    [header.write(), request.write().to_vec()].concat()
}

/// One machine of the cluster, as its folder is called.
#[derive(Debug, Clone, Copy)]
struct Machine {
    name: &'static str,
    program: &'static str,
    member: u64,
}

const MACHINES: [Machine; 3] = [
    Machine {
        name: "lb-1",
        program: "tandem-lb",
        member: 100,
    },
    Machine {
        name: "node-1",
        program: "tandem-node",
        member: 1,
    },
    Machine {
        name: "node-2",
        program: "tandem-node",
        member: 2,
    },
];

/// A cluster that runs from what one command has written.
struct Office {
    hosts: Hosts,
    new: PathBuf,
    started: Vec<Started>,
    /// Last: the processes end before their files go.
    _folder: TempDir,
}

impl Office {
    /// Writes, checks and starts everything, and waits until all of it is ready.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        let hosts = Hosts::unused();
        hosts.write_configuration(&new);
        for machine in MACHINES {
            check_configuration(machine.program, &configuration(&new, machine));
        }
        let started = MACHINES.map(|machine| Started::start(machine.program, &configuration(&new, machine)));
        let mut office = Self {
            hosts,
            new,
            started: started.into(),
            _folder: folder,
        };
        for (admin, started) in office.hosts.admin.into_iter().zip(&mut office.started) {
            started.wait_until_ready(admin).await;
        }
        office
    }

    /// A client's request goes all the way: nobody is in the directory yet, and a node says so.
    async fn answers_clients(&self) {
        let vip = self.hosts.at(self.hosts.front_end, 5060);
        let mut client = Stranger::connect(vip).await.unwrap();
        let request = Letter::invite("joe", "tel:4711;phone-context=dialstring");
        client.send(&request.write()).await.unwrap();
        let answer = client.answer(DEADLINE).await.unwrap().unwrap();
        let status = answer.status().unwrap();
        assert!((400..500).contains(&status), "{status}");
    }

    /// Replaces what the members trust, and waits until each has read it for peers and for pairs.
    async fn put_on_every_machine(&self, bundle: &Path) {
        let times: Vec<usize> = self.started.iter().map(Started::times_read_again).collect();
        for machine in MACHINES {
            let folder = self.new.join(machine.name);
            std::fs::copy(bundle, folder.join("new-ca.pem")).unwrap();
            std::fs::rename(folder.join("new-ca.pem"), folder.join("peer-ca.pem")).unwrap();
        }
        for (started, before) in self.started.iter().zip(times) {
            let since = Instant::now();
            while started.times_read_again() < before + 2 {
                assert!(
                    since.elapsed() < DEADLINE,
                    "{} is not read again",
                    bundle.display()
                );
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Waits until a member shows others a certificate of this authority; clients are answered meanwhile.
    async fn shows_certificate_of(&self, authority: &Path, machine: Machine) {
        let trusting = TlsFiles {
            authority: authority.to_path_buf(),
            ..certificate(&self.new, machine.name)
        };
        let config = peer_client_config(&trusting).unwrap();
        let host = match machine.member {
            1 => self.hosts.nodes[0],
            2 => self.hosts.nodes[1],
            _ => self.hosts.front_end,
        };
        let name = ServerName::try_from(format!("n{}.office.tandem", machine.member)).unwrap();
        let since = Instant::now();
        let place = self.hosts.at(host, 7000);
        while Stranger::connect_tls(place, name.clone(), config.clone())
            .await
            .is_err()
        {
            assert!(
                since.elapsed() < DEADLINE,
                "{} shows its former one",
                machine.name
            );
            self.answers_clients().await;
            tokio::time::sleep(POLL).await;
        }
    }

    /// The story has ended well: nobody wants to read logs.
    fn dismiss(&mut self) {
        for started in &mut self.started {
            started.is_well = true;
        }
    }
}

/// Every machine is an address of a loopback network that nobody else uses.
struct Hosts {
    front_end: IpAddr,
    nodes: [IpAddr; 2],
    /// Where administrators ask lb-1, node-1 and node-2.
    admin: [SocketAddr; 3],
}

impl Hosts {
    fn unused() -> Self {
        let addresses = Addresses::unused().unwrap();
        let [front_end, first, second] = [1, 11, 12].map(|host| addresses.at(host, 0).ip());
        Self {
            front_end,
            nodes: [first, second],
            admin: [front_end, first, second].map(port_of_the_system),
        }
    }

    fn at(&self, host: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(host, port)
    }

    fn write_configuration(&self, out: &Path) {
        let [first, second] = self.nodes;
        let mut words = format!(
            "config init --cluster office --vip {vip} --lb {vip} --node {first} --node {second} --cti {second}:8000 \
             --port lb-1.admin={} --port node-1.admin={} --port node-2.admin={}",
            self.admin[0].port(),
            self.admin[1].port(),
            self.admin[2].port(),
            vip = self.front_end,
        );
        words.push_str(&format!(" --out {}", out.display()));
        tandem(&words);
    }
}

fn tandem(words: &str) {
    let mut command = Command::new(binary("tandem").unwrap());
    let output = command.args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "tandem {words}: {output:?}");
}

/// Nobody has it, and no connection of this machine is made from the address.
fn port_of_the_system(host: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(host, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn configuration(new: &Path, machine: Machine) -> PathBuf {
    let name = machine.program.trim_start_matches("tandem-");
    new.join(machine.name).join(format!("{name}.toml"))
}

fn certificate(new: &Path, machine: &str) -> TlsFiles {
    let file = |name| new.join(machine).join(name);
    TlsFiles {
        certificate: file("peer.pem"),
        key: file("peer.key"),
        authority: file("peer-ca.pem"),
        revocation_list: None,
    }
}

fn check_configuration(program: &str, configuration: &Path) {
    let mut command = Command::new(binary(program).unwrap());
    let output = command
        .arg("--check-config")
        .arg("--config")
        .arg(configuration)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A process of this story; killed with it.
struct Started {
    child: Child,
    log: PathBuf,
    /// Its log is of interest otherwise.
    is_well: bool,
}

impl Started {
    fn start(program: &str, configuration: &Path) -> Self {
        let log = configuration.with_extension("log");
        let output = std::fs::File::create(&log).unwrap();
        let child = Command::new(binary(program).unwrap())
            .arg("--config")
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self {
            child,
            log,
            is_well: false,
        }
    }

    /// How often it has read the files of [cluster.tls] again, for peers and for pairs together.
    fn times_read_again(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.matches("connections between members reloaded").count()
    }

    async fn wait_until_ready(&mut self, admin: SocketAddr) {
        let since = Instant::now();
        while status_of(admin, "/readyz").await.ok() != Some(200) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}: {ended:?}", self.log.display());
            assert!(since.elapsed() < DEADLINE, "{} is not ready", self.log.display());
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.is_well {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            println!("{}:\n{log}", self.log.display());
        }
    }
}

const POLL: Duration = Duration::from_millis(20);
