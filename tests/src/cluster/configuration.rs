//! The configuration files of a cluster, as an operator would write them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use anyhow::bail;

use super::exchange::mailbox;
use super::{Addresses, ClusterOptions, Finalise, Member};
use crate::peers::ocs::{phone_number, user_id};

/// As in the members' certificates: `n1.story.tandem`.
pub(super) const CLUSTER_NAME: &str = "story";
/// Member id of the witness in lb.
pub(super) const WITNESS: u64 = 100;

/// Writes `lb.toml`, `node1.toml` and so on, and `directory.toml`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(directory: &Path, addresses: Addresses, options: &ClusterOptions) -> anyhow::Result<()> {
    for member in options.nodes().chain([Member::Lb]) {
        write_member(directory, member, addresses, options)?;
    }
    let calendars = options
        .exchange
        .as_ref()
        .map(|exchange| exchange.calendars.clone());
    write_directory(directory, options.users, calendars.unwrap_or_default())
}

/// Writes the file of one member.
pub(super) fn write_member(
    directory: &Path,
    member: Member,
    addresses: Addresses,
    options: &ClusterOptions,
) -> anyhow::Result<()> {
    let text = match member {
        Member::Lb => lb(addresses, options),
        Member::Node(id) => node(id, addresses, options),
        Member::CtiManager(_) => bail!("{member} has no configuration file"),
    };
    Ok(std::fs::write(directory.join(format!("{member}.toml")), text)?)
}

/// The configuration of a second process of a node, on another directory: it listens where nobody looks for the node.
pub(super) fn node_beside(id: u64, addresses: Addresses, options: &ClusterOptions, data: &Path) -> String {
    let (own, beside) = (addresses.node_sip(id).ip(), addresses.admin_beside(id).ip());
    let listens = |ip: IpAddr| format!("listen = \"{ip}:");
    node(id, addresses, options)
        .replace(&listens(own), &listens(beside))
        .replace(
            &format!("data_directory = \"node{id}\""),
            &format!("data_directory = \"{}\"", data.display()),
        )
}

/// Writes `directory.toml` with the first so many users, some of whom have a calendar.
pub(super) fn write_directory(directory: &Path, count: usize, calendars: Range<usize>) -> anyhow::Result<()> {
    std::fs::write(directory.join("directory.toml"), users(count, &calendars))?;
    Ok(())
}

fn lb(addresses: Addresses, options: &ClusterOptions) -> String {
    let nodes: String = (1..=options.nodes)
        .map(|id| {
            format!(
                "[[node]]\nid = {id}\naddress = \"{}\"\n\n",
                addresses.node_sip(id)
            )
        })
        .collect();
    format!(
        "pairs = \"{pairs}\"\n[log]\nformat = \"text\"\n\n\
         [admin]\nlisten = \"{admin}\"\n\n\
         [[listener]]\nname = \"ocs\"\naddress = \"{vip}\"\ntransport = \"tcp\"\nmode = \"message\"\n\
         balance = \"round-robin\"\nallow = [{{ source = \"{network}\" }}]\n\n\
         {tls_listener}\
         {nodes}\
         [keepalive]\nperiod_ms = 500\nfailures = 3\nretry_period_ms = 200\nsuccesses = 1\n{hold_down}\n\
         [outbound]\nlisten = \"{outbound}\"\nallow = [\"{network}\"]\n\
         source_address = \"{source}\"\n\n\
         {further}\n\
         {cluster}",
        admin = addresses.admin(Member::Lb).expect("lb has an admin listener"),
        pairs = pairs(options),
        vip = addresses.vip(),
        hold_down = options
            .hold_down
            .map(|time| format!("hold_down_ms = {}\n", time.as_millis()))
            .unwrap_or_default(),
        tls_listener = tls_listener(addresses, options),
        outbound = addresses.outbound(),
        network = addresses.network(),
        source = addresses.vip().ip(),
        further = options
            .lb_sections
            .replace("{vip}", &addresses.vip().ip().to_string()),
        cluster = cluster(WITNESS, addresses, options),
    )
}

/// With certificates there is a listener for mutual TLS as well.
fn tls_listener(addresses: Addresses, options: &ClusterOptions) -> String {
    if !options.peer_tls {
        return String::new();
    }
    format!(
        "[[listener]]\nname = \"ocs-tls\"\naddress = \"{}\"\ntransport = \"tls\"\n\
         certificate = \"n{WITNESS}.pem\"\nkey = \"n{WITNESS}.key\"\nclient_authority = \"authority.pem\"\n\
         allow = [{{ source = \"{}\" }}]\n\n",
        addresses.vip_tls(),
        addresses.network(),
    )
}

fn node(id: u64, addresses: Addresses, options: &ClusterOptions) -> String {
    let mut connections = String::new();
    for number in 1..=options.cti_managers {
        let address = addresses.cti_manager(number);
        let _ = write!(
            connections,
            "[[cti.connection]]\nname = \"cm{number}\"\naddress = \"{address}\"\n\n"
        );
    }
    format!(
        "[node]\nid = {id}\ndata_directory = \"node{id}\"\n\n\
         [log]\nformat = \"text\"\n\n\
         [admin]\nlisten = \"{admin}\"\n\n\
         [sip]\nlisten = \"{sip}\"\ntrusted_front_ends = [\"{network}\"]\npairs = \"{pairs}\"\n\
         outbound_front_ends = [\"{outbound}\"]\nsession_timer_secs = {session_timer}\n{without_quorum}\n\
         [directory]\nfile = \"directory.toml\"\n\n\
         [cti]\nheartbeat_interval_ms = {heartbeat}\nreconnect_interval_ms = 200\n{request_timeout}\n\
         {connections}\
         {presence}\
         {exchange}\
         {cluster}\
         [fault_injection]\nadoption_disabled = {adoption_disabled}\n",
        admin = addresses
            .admin(Member::Node(id))
            .expect("a node has an admin listener"),
        sip = addresses.node_sip(id),
        pairs = pairs(options),
        network = addresses.network(),
        outbound = addresses.outbound(),
        session_timer = options.session_timer_secs,
        heartbeat = options.cti_heartbeat.as_millis(),
        request_timeout = options
            .cti_request_timeout
            .map(|time| format!("request_timeout_ms = {}\n", time.as_millis()))
            .unwrap_or_default(),
        presence = presence(addresses, options),
        exchange = options
            .exchange
            .as_ref()
            .map(|exchange| super::exchange::sections(id, addresses, exchange))
            .unwrap_or_default(),
        cluster = cluster(id, addresses, options),
        adoption_disabled = options.adoption_disabled,
        without_quorum = match options.serves_without_quorum {
            true => "new_sessions_without_quorum = \"serve\"\n",
            false => "",
        },
    )
}

fn pairs(options: &ClusterOptions) -> &'static str {
    match options.secure_pairs {
        true => "tls",
        false => "plain",
    }
}

fn presence(addresses: Addresses, options: &ClusterOptions) -> String {
    if !options.publishes_presence {
        return String::new();
    }
    let target = addresses.presence_server();
    format!("[presence.publish]\ntarget = \"sip:{target};transport=tcp\"\n\n")
}

/// `[cluster]` of one member. Paths are relative to the file.
fn cluster(own: u64, addresses: Addresses, options: &ClusterOptions) -> String {
    let of_witness = if own == WITNESS {
        "member_id = 100\ndata_directory = \"lb\"\n"
    } else {
        ""
    };
    let security = if options.peer_tls {
        ""
    } else {
        "plaintext_on_loopback = true\n"
    };
    let mut text = format!(
        "[cluster]\nname = \"{CLUSTER_NAME}\"\n{of_witness}listen = \"{}\"\n{security}",
        addresses.peer(own)
    );
    if let Some((snapshot_after, kept)) = options.log_bounds {
        let _ = writeln!(
            text,
            "snapshot_after_entries = {snapshot_after}\nentries_kept = {kept}"
        );
    }
    if let Some(bytes) = options.log_file_bytes {
        let _ = writeln!(text, "log_file_bytes = {bytes}");
    }
    if let Some(format) = options.newest_format {
        let _ = writeln!(text, "newest_format = {format}");
    }
    let _ = match options.finalise {
        Finalise::AfterSecs(secs) => writeln!(text, "finalise_after_secs = {secs}\n"),
        Finalise::Manual => writeln!(text, "finalise = \"manual\"\n"),
    };
    let nodes = (1..=options.nodes).map(|id| (id, "node"));
    for (id, kind) in nodes.chain([(WITNESS, "witness")]) {
        let address = addresses.peer(id);
        let _ = write!(
            text,
            "[[cluster.member]]\nid = {id}\nkind = \"{kind}\"\naddress = \"{address}\"\n\n"
        );
    }
    if options.peer_tls {
        let _ = write!(
            text,
            "[cluster.tls]\ncertificate = \"n{own}.pem\"\nkey = \"n{own}.key\"\nauthority = \"authority.pem\"\n\n"
        );
    }
    text
}

fn users(count: usize, calendars: &Range<usize>) -> String {
    let mut text = String::new();
    for user in 0..count {
        let calendar = match calendars.contains(&user) {
            true => "calendar = true\n",
            false => "",
        };
        let (id, number, mail) = (user_id(user), phone_number(user), mailbox(user));
        let _ = write!(
            text,
            "[[user]]\nid = \"{id}\"\nmail = \"{mail}\"\nremote_call_control = true\n{calendar}\n\
             [[device]]\nname = \"SEP{number}\"\n\n\
             [[line]]\nnumber = \"{number}\"\ndevices = [\"SEP{number}\"]\nusers = [\"{id}\"]\n\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Family;
    use super::*;

    #[test]
    fn every_file_is_toml() {
        let made = [Family::V4, Family::V6].map(Addresses::in_a_made_network);
        let options = ClusterOptions {
            exchange: Some(super::super::ExchangeOptions::default()),
            hold_down: Some(Duration::from_secs(1)),
            log_bounds: Some((200, 20)),
            log_file_bytes: Some(4096),
            newest_format: Some(1),
            cti_request_timeout: Some(Duration::from_secs(1)),
            finalise: Finalise::Manual,
            lb_sections: "[[listener]]\nname = \"more\"\naddress = \"{vip}:5063\"\n".to_owned(),
            ..ClusterOptions::default()
        };
        for addresses in made.into_iter().chain([Addresses::on_loopback(1, 2)]) {
            for text in [
                lb(addresses, &options),
                node(1, addresses, &options),
                users(3, &(0..2)),
            ] {
                toml::from_str::<toml::Table>(&text).unwrap();
            }
        }
    }
}
