//! The words of the command line, as clap reads them. Help, completions and manual pages come from here.

use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tandem_cluster::MemberAddress;

use crate::configuration::network::{Listener, Machine, Place, PortChoice, Source};
use crate::pki::authority::AuthorityKind;
use crate::pki::holder::Role;
use crate::pki::name::{ClusterName, HostName, PersonName};
use crate::pki::request::MEMBER_IDS;

/// High-availability plumbing for desk-phone control and calendar presence: certificates and configuration of a cluster.
#[derive(Debug, Parser)]
#[command(name = "tandem", version, after_help = EXIT_STATUS)]
pub struct Arguments {
    /// Do not use colours, as with NO_COLOR in the environment.
    #[arg(long, global = true)]
    pub no_color: bool,
    #[command(subcommand)]
    pub noun: Noun,
}

#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Authorities and certificates of the cluster and of who talks to it.
    #[command(subcommand)]
    Pki(Pki),
    /// Configuration files of the programs.
    #[command(subcommand)]
    Config(Configuration),
    /// Print the version of this program.
    Version,
    /// Print a completion script for a shell: tandem completions bash > /etc/bash_completion.d/tandem
    Completions { shell: Shell },
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Manual { directory: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum Pki {
    /// Create two authorities: one for the members of a cluster, one for everything else.
    Init(PkiInit),
    /// Create a key and its certificate, on the machine that has the authorities.
    Issue(Issue),
    /// Create a key and a signing request, on the machine where the key stays.
    Csr(Csr),
    /// Sign a request, by the authority that its names belong to.
    Sign(Sign),
    /// Show what certificates say and how long they are valid.
    Show {
        /// Files of certificates: PEM, DER or .p7b.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Check the certificates, keys and file modes that a configuration names.
    Verify {
        /// A lb.toml or node.toml, on its machine.
        #[arg(long)]
        config: PathBuf,
    },
    /// Replace the certificate and the key of a member; the former ones are kept as peer.pem.1 and peer.key.1.
    Renew(Renew),
}

#[derive(Debug, Args)]
pub struct PkiInit {
    /// Name of the cluster; its members are called nID.CLUSTER.tandem.
    #[arg(long, required_unless_present = "renew", conflicts_with = "renew")]
    pub cluster: Option<ClusterName>,
    /// Replace one authority. The bundle then holds both, so that certificates of both are trusted.
    #[arg(long, value_enum)]
    pub renew: Option<AuthorityKind>,
    /// Directory of the authorities: anyone who can read it can sign.
    #[arg(long)]
    pub out: PathBuf,
}

impl ValueEnum for AuthorityKind {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.stem()))
    }
}

/// For whom a certificate is: one of the three.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("holder").required(true).args(["member", "vip", "admin"])))]
pub struct HolderArguments {
    /// Id of a member: `[node] id` of a node, `[cluster] member_id` of a front end.
    #[arg(long, value_name = "ID", value_parser = member_id())]
    pub member: Option<u64>,
    /// A further name of the member, under its cluster's domain, or an address.
    #[arg(long, value_name = "NAME", requires = "member", conflicts_with_all = ["vip", "admin"])]
    pub san: Vec<HostName>,
    /// DNS names and addresses that clients connect to.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub vip: Vec<HostName>,
    /// Name of an administrator.
    #[arg(long, value_name = "NAME", requires = "role")]
    pub admin: Option<PersonName>,
    /// What the administrator may do.
    #[arg(long, requires = "admin", conflicts_with_all = ["member", "vip"])]
    pub role: Option<Role>,
}

#[derive(Debug, Args)]
pub struct Issue {
    #[command(flatten)]
    pub holder: HolderArguments,
    #[command(flatten)]
    pub authorities: Authorities,
    /// Directory for the files; by default a folder in the directory of the authorities, as n1 or vip.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Csr {
    #[command(flatten)]
    pub holder: HolderArguments,
    /// Name of the member's cluster.
    #[arg(long, required_unless_present_any = ["vip", "admin"])]
    pub cluster: Option<ClusterName>,
    /// Directory for the key and the request.
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Sign {
    /// A request in PEM.
    pub file: PathBuf,
    /// The role that is granted to the administrator who asks for it.
    #[arg(long)]
    pub role: Option<Role>,
    #[command(flatten)]
    pub authorities: Authorities,
    /// Directory for the certificate; by default that of the request.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Renew {
    /// Id of a member.
    #[arg(long, value_name = "ID", value_parser = member_id())]
    pub member: u64,
    #[command(flatten)]
    pub authorities: Authorities,
    /// Directory of the member's files; by default the one that `tandem pki issue` uses.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Where the authorities lie.
#[derive(Debug, Args)]
pub struct Authorities {
    /// Directory of the authorities, created by `tandem pki init`.
    #[arg(long = "authorities", value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Configuration {
    /// Write the configuration and the certificates of each machine of a new cluster.
    Init(Box<ConfigInit>),
    /// Check lb.toml, node.toml and directory.toml as the programs do; the sections of a file say which it is.
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct ConfigInit {
    /// Name of the cluster; its members are called nID.CLUSTER.tandem.
    #[arg(long)]
    pub cluster: ClusterName,
    /// Address that clients (OCS) connect to; ADDR:PORT for another port than 5060.
    #[arg(long, value_name = "ADDR")]
    pub vip: Place,
    /// Address of the front end itself.
    #[arg(long, value_name = "ADDR")]
    pub lb: std::net::IpAddr,
    /// Address of a node; up to seven, n1 first.
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    pub node: Vec<std::net::IpAddr>,
    /// A CTI manager, in order of priority.
    #[arg(long, value_name = "HOST:PORT", required = true, num_args = 1..)]
    pub cti: Vec<MemberAddress>,
    /// A client that may connect: an address, a network or a host name. By default the network around the VIP.
    #[arg(long, value_name = "SOURCE", num_args = 1..)]
    pub client: Vec<Source>,
    /// A Client Access Server of Exchange.
    #[arg(long, value_name = "HOST", num_args = 1.., requires = "exchange_account")]
    pub exchange: Vec<HostName>,
    /// The account that nodes use with Exchange: a UPN, or DOMAIN\user.
    #[arg(long, value_name = "NAME", requires_all = ["exchange", "exchange_password_file"])]
    pub exchange_account: Option<String>,
    /// A file that holds the password of the account; it is copied for each node.
    #[arg(long, value_name = "FILE", requires = "exchange")]
    pub exchange_password_file: Option<PathBuf>,
    /// Another port for one listener, as node-2.admin=9081.
    #[arg(long = "port", value_name = "MACHINE.LISTENER=PORT", long_help = port_help())]
    pub ports: Vec<PortChoice>,
    /// Directory for a folder of each machine, and one of the authorities.
    #[arg(long)]
    pub out: PathBuf,
}

fn member_id() -> ValueParser {
    clap::value_parser!(u64).range(MEMBER_IDS).into()
}

fn port_help() -> String {
    let listeners = Listener::ALL.map(|listener| {
        let [front_end, node] =
            [Machine::FrontEnd, Machine::Node(1)].map(|machine| listener.default_port(machine));
        match front_end == node {
            true => format!("{} {node}", listener.word()),
            false => format!("{} {node} (lb-1: {front_end})", listener.word()),
        }
    });
    format!(
        "Another port for one listener, as node-2.admin=9081. The machines are lb-1, node-1 and so on; the listeners and \
         their ports are {}",
        listeners.join(", ")
    )
}

const EXIT_STATUS: &str = "Exit status: 0 all is well; 1 something is wrong, or was refused; 64 the command line is not \
                           valid.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_certificate_is_for_exactly_one() {
        assert!(parse("tandem pki issue --member 1 --san 192.0.2.1").is_ok());
        assert!(parse("tandem pki issue --vip rcc.example.com 192.0.2.10").is_ok());
        assert!(parse("tandem pki issue --admin ana --role operate").is_ok());
        for line in [
            "tandem pki issue",
            "tandem pki issue --member 1 --vip rcc.example.com",
            "tandem pki issue --member 0",
            "tandem pki issue --admin ana",
            "tandem pki issue --vip a.example --role read",
            "tandem pki issue --vip a.example --san b.example",
            "tandem pki csr --member 1",
            "tandem pki init --out .",
            "tandem pki init --out . --cluster office --renew peers",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn exchange_needs_an_account() {
        let beginning = "tandem config init --cluster office --vip 192.0.2.10 --lb 192.0.2.20 --node 192.0.2.21 --node \
                         192.0.2.22 --cti cti.example.com:8000 --out new";
        assert!(parse(beginning).is_ok());
        assert!(parse(&format!("{beginning} --exchange cas1.example.com")).is_err());
        let account = "--exchange cas1.example.com --exchange-account a@b --exchange-password-file password";
        assert!(parse(&format!("{beginning} {account}")).is_ok());
    }
}
