//! CAS: their health, and changes to them.

use serde_json::{Value, json};
use tandem_runtime::io::command_line::{AdminClient, ClientError, Outcome, Table, list_of, word};

use super::arguments::NewCas;

pub(super) fn status(client: &AdminClient, json: bool) -> Result<Outcome, ClientError> {
    let status = client.get("/exchange/status")?;
    let cas_list = list_of(&status["gateways"]);
    let is_well = |cas: &Value| cas["well"].as_bool() == Some(true);
    let well = !cas_list.is_empty()
        && cas_list.iter().all(is_well)
        && status["credential_refused"].as_bool() == Some(false);
    let text = if json {
        status.to_string()
    } else {
        status_text(&status)
    };
    Ok(Outcome { text, well })
}

/// The status of every CAS (CAL-7).
fn status_text(status: &Value) -> String {
    let account = &status["account"];
    let mut text = format!(
        "account {}, {}{}, seen from {}\n\n",
        word(&account["name"]),
        word(&account["authentication"]),
        match status["credential_refused"].as_bool() {
            Some(true) => ": REFUSED, one attempt per minute",
            Some(false) | None => "",
        },
        word(&status["node"]),
    );
    let mut table = Table::new(&[
        "gateway",
        "host",
        "reachability",
        "SSL connection/certificate",
        "account",
        "impersonation",
        "latency",
        "server",
        "users",
        "breaker",
        "throttled",
        "in flight",
    ]);
    let cas_list = list_of(&status["gateways"]);
    for cas in cas_list {
        let (probe, here) = (&cas["probe"], &cas["here"]);
        table.row([
            marked(cas),
            format!("{}:{}", word(&cas["host"]), word(&cas["port"])),
            word(&probe["reachability"]),
            word(&probe["ssl_status"]),
            word(&probe["account"]).replace('_', " "),
            word(&probe["impersonation"]).replace('_', " "),
            millis(&probe["latency_ms"]),
            word(&probe["server_version"]),
            word(&cas["users"]),
            word(&here["breaker"]).replace('_', " "),
            word(&here["throttled"]),
            word(&here["in_flight"]),
        ]);
    }
    text.push_str(&table.text());
    for cas in cas_list {
        for explanation in list_of(&cas["probe"]["explanations"]) {
            text.push_str(&format!("\n{}: {}", word(&cas["name"]), word(explanation)));
        }
        let broken = list_of(&cas["broken_for"]);
        if !broken.is_empty() {
            let nodes: Vec<String> = broken.iter().map(word).collect();
            text.push_str(&format!(
                "\n{}: circuit breaker open at {}; its users are reassigned.",
                word(&cas["name"]),
                nodes.join(", ")
            ));
        }
    }
    if cas_list.is_empty() {
        text.push_str("\nNo gateway is configured: tandem-node exchange gateways add NAME HOST");
    }
    text
}

fn marked(cas: &Value) -> String {
    let name = word(&cas["name"]);
    match cas["well"].as_bool() {
        Some(true) => name,
        Some(false) | None => format!("{name} (!)"),
    }
}

pub(super) fn list(client: &AdminClient, json: bool) -> Result<Outcome, ClientError> {
    let cas_list = client.get("/exchange/gateways")?;
    if json {
        return Ok(Outcome::well(cas_list.to_string()));
    }
    let mut table = Table::new(&[
        "gateway",
        "host",
        "eligible",
        "takes users",
        "users",
        "description",
    ]);
    for cas in list_of(&cas_list) {
        table.row([
            word(&cas["name"]),
            format!("{}:{}", word(&cas["host"]), word(&cas["port"])),
            yes_or_no(&cas["eligible"]),
            yes_or_no(&cas["takes_users"]),
            word(&cas["users"]),
            word(&cas["description"]),
        ]);
    }
    Ok(Outcome::well(table.text()))
}

pub(super) fn add(client: &AdminClient, new: &NewCas) -> Result<Outcome, ClientError> {
    let mut cas_list = configured(client)?;
    cas_list.retain(|cas| cas["name"] != json!(new.name));
    cas_list.push(json!({
        "name": new.name,
        "host": new.host.host,
        "port": new.host.port,
        "description": new.description,
        "channel_binding": new.channel_binding,
        "legacy_algorithms": new.legacy_algorithms,
    }));
    configure(client, &cas_list)
}

pub(super) fn remove(client: &AdminClient, name: &str) -> Result<Outcome, ClientError> {
    let mut cas_list = configured(client)?;
    let before = cas_list.len();
    cas_list.retain(|cas| cas["name"] != json!(name));
    if cas_list.len() == before {
        return Err(ClientError::Refused {
            status: hyper::StatusCode::NOT_FOUND,
            message: format!("no such gateway: {name:?}"),
        });
    }
    configure(client, &cas_list)
}

/// The list as the route accepts it.
fn configured(client: &AdminClient) -> Result<Vec<Value>, ClientError> {
    let cas_list = client.get("/exchange/gateways")?;
    let settable = |cas: &Value| {
        let keys = SETTABLE.iter();
        keys.map(|key| ((*key).to_owned(), cas[*key].clone())).collect()
    };
    Ok(list_of(&cas_list)
        .iter()
        .map(|cas| Value::Object(settable(cas)))
        .collect())
}

fn configure(client: &AdminClient, cas_list: &[Value]) -> Result<Outcome, ClientError> {
    client.post("/exchange/gateways", &json!({ "gateways": cas_list }))?;
    list(client, false)
}

pub(super) fn set_eligible(client: &AdminClient, name: &str, eligible: bool) -> Result<Outcome, ClientError> {
    let body = json!({ "name": name, "eligible": eligible });
    client.post("/exchange/gateways/eligible", &body)?;
    list(client, false)
}

pub(super) fn rebalance(client: &AdminClient, per_second: u32) -> Result<Outcome, ClientError> {
    let answer = client.post("/exchange/rebalance", &json!({ "per_second": per_second }))?;
    Ok(Outcome::well(format!(
        "{} users move, {per_second} per second; see GET /exchange/rebalance",
        word(&answer["moves"])
    )))
}

fn yes_or_no(value: &Value) -> String {
    let word = match value.as_bool() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    word.to_owned()
}

fn millis(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"))
}

const SETTABLE: [&str; 6] = [
    "name",
    "host",
    "port",
    "description",
    "channel_binding",
    "legacy_algorithms",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_the_statuses_of_cal_7() {
        let status = json!({
            "node": "n1",
            "account": { "name": "LAB\\svc", "authentication": "negotiate" },
            "credential_refused": false,
            "gateways": [{
                "name": "cas-1", "host": "cas1.lab.test", "port": 443, "well": false, "users": 12,
                "broken_for": ["n2"],
                "probe": {
                    "reachability": "pingable", "ssl_status": "Certificate Missing From Chain",
                    "account": "not_tried", "impersonation": "not_tried", "latency_ms": null,
                    "server_version": null, "explanations": ["Upload the issuer."],
                },
                "here": { "breaker": "open", "throttled": 3, "in_flight": 0 },
            }],
        });
        let text = status_text(&status);
        for wanted in [
            "account LAB\\svc, negotiate, seen from n1",
            "cas-1 (!)  cas1.lab.test:443  pingable      Certificate Missing From Chain  not tried",
            "cas-1: Upload the issuer.",
            "cas-1: circuit breaker open at n2; its users are reassigned.",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }
}
