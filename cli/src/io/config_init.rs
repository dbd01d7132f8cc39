//! `tandem config init`: a folder for each machine of a new cluster, with everything that it needs to start.

use std::path::{Path, PathBuf};

use tandem_cluster::NodeId;
use thiserror::Error;

use super::authorities::{Authority, AuthorityError, cluster_in, make_all};
use super::certify::Certified;
use super::files::{self, FileError, Readers};
use crate::arguments::ConfigInit;
use crate::configuration::network::{Listener, Machine};
use crate::configuration::plan::{ExchangePlan, Plan, PlanError, Wanted};
use crate::configuration::{directory_file, front_end_file, node_file};
use crate::pki::authority::AuthorityKind;
use crate::pki::holder::Holder;
use crate::pki::name::{ClusterName, HostName};

/// Writes everything, and says what to do with it.
pub(super) fn init(arguments: ConfigInit) -> Result<String, InitError> {
    let out = arguments.out.clone();
    let password = arguments.exchange_password_file.clone();
    let plan = Plan::new(wanted(arguments))?;
    for machine in plan.machines() {
        let folder = out.join(machine.to_string());
        if folder.exists() {
            return Err(FileError::Exists { path: folder }.into());
        }
    }
    let secrets = password.map(|path| Secrets::make(&path)).transpose()?;
    let authorities = authorities(&out, plan.cluster())?;
    for machine in plan.machines() {
        let folder = out.join(machine.to_string());
        files::make_new_directory(&folder)?;
        write_member(&plan, machine, &authorities, &folder)?;
        match (machine, &secrets) {
            (Machine::Node(_), Some(secrets)) => {
                let address = plan.place(machine, Listener::Push).map(|place| place.ip());
                let names = address.map(HostName::Address).into_iter().collect();
                write_exchange(secrets, &authorities, names, &folder)?;
            }
            (Machine::FrontEnd, _) | (Machine::Node(_), None) => {}
        }
    }
    Ok(summary(&plan, &out))
}

fn wanted(arguments: ConfigInit) -> Wanted {
    let account = arguments.exchange_account;
    Wanted {
        cluster: arguments.cluster,
        vip: arguments.vip,
        front_end: arguments.lb,
        nodes: arguments.node,
        cti: arguments.cti,
        clients: arguments.client,
        exchange: account.map(|account| ExchangePlan {
            hosts: arguments.exchange,
            account,
        }),
        ports: arguments.ports,
    }
}

/// Those that are there already, or new ones.
fn authorities(out: &Path, cluster: &ClusterName) -> Result<PathBuf, InitError> {
    let directory = out.join("authorities");
    if !directory.exists() {
        make_all(&directory, cluster)?;
    }
    let found = cluster_in(&directory)?;
    if found == *cluster {
        Ok(directory)
    } else {
        Err(InitError::OtherCluster { directory, found })
    }
}

fn write_member(plan: &Plan, machine: Machine, authorities: &Path, folder: &Path) -> Result<(), InitError> {
    let holder = Holder::Member {
        id: NodeId(Plan::member_id(machine)),
        cluster: plan.cluster().clone(),
        further: Vec::new(),
    };
    let peers = Authority::load(authorities, AuthorityKind::Peers)?;
    Certified::make(&peers, &holder)?.write(folder, &holder.stem())?;
    let write =
        |name: &str, text: &str| files::create(&folder.join(name), text.as_bytes(), Readers::Everybody);
    match machine {
        Machine::FrontEnd => write("lb.toml", &front_end_file(plan))?,
        Machine::Node(id) => {
            write("node.toml", &node_file(plan, id))?;
            write("directory.toml", directory_file())?;
        }
    }
    Ok(())
}

/// What all nodes need for Exchange.
struct Secrets {
    password: Vec<u8>,
    /// Makes the URLs of callbacks unguessable; hexadecimal.
    callback_key: String,
}

impl Secrets {
    fn make(password: &Path) -> Result<Self, InitError> {
        let mut key = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut key).map_err(|_| InitError::NoRandomness)?;
        let digits: Vec<String> = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            password: files::read(password)?,
            callback_key: format!("{}\n", digits.concat()),
        })
    }
}

fn write_exchange(
    secrets: &Secrets,
    authorities: &Path,
    names: Vec<HostName>,
    folder: &Path,
) -> Result<(), InitError> {
    let write = |name: &str, contents: &[u8]| files::create(&folder.join(name), contents, Readers::Owner);
    write("exchange-password", &secrets.password)?;
    write("callback.key", secrets.callback_key.as_bytes())?;
    let service = Authority::load(authorities, AuthorityKind::Service)?;
    Certified::make(&service, &Holder::Vip { names })?.write(folder, "push")?;
    Ok(())
}

fn summary(plan: &Plan, out: &Path) -> String {
    let mut text = String::new();
    for machine in plan.machines() {
        let (program, configuration) = match machine {
            Machine::FrontEnd => ("tandem-lb", "lb.toml"),
            Machine::Node(_) => ("tandem-node", "node.toml"),
        };
        let folder = out.join(machine.to_string());
        text.push_str(&format!(
            "Copy {}/ to /etc/tandem/ on {machine}, where {program} reads {configuration}.\n",
            folder.display()
        ));
    }
    let clients: Vec<String> = plan.clients().iter().map(ToString::to_string).collect();
    text.push_str(&format!(
        "Clients may connect from {}; name others with --client.\n\
         Users and lines go into directory.toml, the same on every node.\n\
         {} can sign any certificate: keep it on one machine, with a backup in a safe place.\n",
        clients.join(", "),
        out.join("authorities").display()
    ));
    if plan.wants_exchange() {
        text.push_str("Exchange must trust authorities/service-ca.pem before its callbacks arrive.\n");
    }
    text
}

/// Why there is no configuration, and what to do.
#[derive(Debug, Error)]
pub(super) enum InitError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the authorities in {} are those of the cluster {found}: choose another directory, or that name", .directory.display())]
    OtherCluster { directory: PathBuf, found: ClusterName },
    #[error("the operating system has no random bytes to give: try again")]
    NoRandomness,
}
