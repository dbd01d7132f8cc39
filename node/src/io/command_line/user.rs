//! Explains a user's CAS assignment.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tandem_runtime::io::command_line::{AdminClient, ClientError, Outcome, word};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) fn explain(client: &AdminClient, user: &str, json: bool) -> Result<Outcome, ClientError> {
    let user = utf8_percent_encode(user, NON_ALPHANUMERIC);
    let view = client.get(&format!("/exchange/users/{user}"))?;
    let well = view["here"]["trouble"].is_null();
    let text = if json { view.to_string() } else { text_of(&view) };
    Ok(Outcome { text, well })
}

fn text_of(view: &Value) -> String {
    let mut lines = vec![
        line("user", &word(&view["user"])),
        line("mail address", &word(&view["mail"])),
        line("calendar", &enabled(view)),
    ];
    if view["gateway"].is_null() {
        lines.push(line("gateway", "none"));
    } else {
        lines.push(line("gateway", &word(&view["gateway"])));
        lines.push(line("  since", &time(&view["since_ms"])));
        lines.push(line("  because", &reason(&view["reason"])));
        lines.push(line("  epoch", &word(&view["epoch"])));
    }
    lines.push(line("owned by", &word(&view["owner"])));
    let calendar = &view["calendar"];
    if !calendar.is_null() {
        let until = time(&calendar["until_ms"]);
        lines.push(line(
            "published",
            &format!("{} until {until}", word(&calendar["state"])),
        ));
    }
    let here = &view["here"];
    if !here.is_null() {
        lines.extend(details(here));
    }
    if let Some(ask) = view["ask"].as_str() {
        lines.push(ask.to_owned());
    }
    lines.join("\n")
}

fn details(here: &Value) -> Vec<String> {
    let mut lines = vec![
        line("subscription", &word(&here["subscription"])),
        line("  delivery", &word(&here["delivery"])),
    ];
    for (name, key) in [
        ("  since", "subscribed_at_ms"),
        ("last sign of life", "last_heard_ms"),
        ("last event", "last_event_ms"),
        ("last read", "last_read_ms"),
        ("next read", "next_read_ms"),
        ("known until", "known_until_ms"),
        ("next change", "next_edge_ms"),
        ("next try", "next_retry_ms"),
    ] {
        if !here[key].is_null() {
            lines.push(line(name, &time(&here[key])));
        }
    }
    if let Some(trouble) = here["trouble"].as_str() {
        lines.push(line("trouble", &trouble.replace('_', " ")));
    }
    if here["push_unreachable"].as_bool() == Some(true) {
        lines.push(line(
            "callbacks",
            "none came: check that the CAS can reach exchange.push.advertise",
        ));
    }
    lines
}

fn enabled(view: &Value) -> String {
    let by = word(&view["enabled_by"]);
    match view["enabled"].as_bool() {
        Some(true) => format!("part of the presence ({by})"),
        Some(false) | None => format!("not part of the presence ({by})"),
    }
}

fn reason(value: &Value) -> String {
    match value.as_str() {
        Some("round_robin") => "it was this gateway's turn when the user was enabled".to_owned(),
        Some("failed") => "the subscription failed at the previous gateway".to_owned(),
        Some("removed") => "the previous gateway was removed".to_owned(),
        Some("rebalanced") => "an administrator rebalanced the gateways".to_owned(),
        Some(_) | None => word(value),
    }
}

fn line(name: &str, value: &str) -> String {
    format!("{name:<18}{value}")
}

/// Unix milliseconds as a date; nothing for what is not known.
fn time(value: &Value) -> String {
    let seconds = value.as_i64().map(|millis| millis / 1000);
    let date = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_user_is_explained_in_words() {
        let view = json!({
            "user": "ana", "mail": "ana@lab.test", "enabled": true, "enabled_by": "the directory",
            "gateway": "cas-2", "epoch": 1, "since_ms": 1_795_340_000_000_u64, "reason": "failed",
            "owner": "n2", "calendar": { "state": "busy", "from_ms": 0, "until_ms": null },
            "here": null, "ask": "node n2 owns this calendar and knows more: ask its admin listener",
        });
        let text = text_of(&view);
        for wanted in [
            "gateway           cas-2",
            "  since           2026-11-22T",
            "  because         the subscription failed at the previous gateway",
            "published         busy until -",
            "ask its admin listener",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }
}
