//! The live table: what clients, PBX and metrics say at this moment, drawn over and over.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_tests::cluster::{Addresses, Member, Metrics};
use tandem_tests::peers::exchange::backend::Backend;
use tandem_tests::peers::exchange::server::Health;
use tandem_tests::peers::ocs::Ocs;
use tandem_tests::peers::pbx::Pbx;
use tandem_tests::scenario::Scene;

/// A task that draws until it is stopped.
#[derive(Debug)]
pub(crate) struct Table {
    act: Arc<Mutex<String>>,
    drawing: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Sources {
    started: Instant,
    act: Arc<Mutex<String>>,
    ocs: Ocs,
    pbx: Pbx,
    exchange: Backend,
    addresses: Addresses,
}

impl Table {
    pub(crate) fn start(scene: &Scene) -> Self {
        let act = Arc::new(Mutex::new("starting".to_owned()));
        let sources = Sources {
            started: Instant::now(),
            act: Arc::clone(&act),
            ocs: scene.ocs.clone(),
            pbx: scene.pbx().clone(),
            exchange: scene.cluster.exchange().backend().clone(),
            addresses: scene.cluster.addresses(),
        };
        Self {
            act,
            drawing: tokio::spawn(sources.draw_for_ever()),
        }
    }

    /// What is going on, in the table's first line.
    pub(crate) fn act(&self, what: &str) {
        what.clone_into(&mut self.act.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn stop(self) {
        self.drawing.abort();
    }
}

impl Sources {
    /// A terminal sees one table that changes; a file gets a table every few seconds.
    async fn draw_for_ever(self) {
        let is_terminal = std::io::stdout().is_terminal();
        let period = if is_terminal {
            Duration::from_millis(500)
        } else {
            Duration::from_secs(5)
        };
        let mut drawn = 0;
        loop {
            let lines = self.lines().await;
            let mut text = String::new();
            if is_terminal && drawn > 0 {
                text.push_str(&format!("\x1b[{drawn}A"));
            }
            for line in &lines {
                text.push_str(line);
                text.push_str(if is_terminal { "\x1b[K\n" } else { "\n" });
            }
            drawn = lines.len();
            print(&text);
            tokio::time::sleep(period).await;
        }
    }

    async fn lines(&self) -> Vec<String> {
        let (signed_in, unanswered, events) = self
            .ocs
            .ask(|front_end| {
                let events: usize = front_end.users().iter().map(|user| user.events().len()).sum();
                (front_end.signed_in(), front_end.unanswered(), events)
            })
            .await;
        let (calls, commands) = self
            .pbx
            .ask(|switch| (switch.calls().len(), switch.log().len()))
            .await;
        let act = self.act.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lines = vec![
            format!("── {:>4} s  {act}", self.started.elapsed().as_secs()),
            format!(
                "clients   {signed_in:>5} signed in   {unanswered:>4} requests unanswered   {events:>6} events"
            ),
            format!("PBX       {calls:>5} calls up    {commands:>4} commands"),
        ];
        lines.push(self.calendar_line().await);
        lines.push(self.presence_line().await);
        for member in [Member::Node(1), Member::Node(2)] {
            lines.push(self.node_line(member).await);
        }
        let lb = self.addresses.metrics(Member::Lb).await;
        lines.push(format!(
            "lb        {}",
            lb.as_ref().map_or_else(|_| DOWN.to_owned(), lb_line)
        ));
        lines
    }

    /// How many users each Exchange server is read for.
    async fn calendar_line(&self) -> String {
        let shares = self
            .exchange
            .ask(|servers| {
                let counts = servers.users_per_cas();
                let shares = servers
                    .all()
                    .iter()
                    .zip(counts)
                    .map(|(cas, count)| match cas.health {
                        Health::Up => format!("{} {count}", cas.name),
                        Health::Frozen => format!("{} frozen", cas.name),
                        Health::Down => format!("{} {DOWN}", cas.name),
                    });
                shares.collect::<Vec<_>>()
            })
            .await;
        format!("calendars {}", shares.join(", "))
    }

    /// Of the first few users, as the first node that answers tells it.
    async fn presence_line(&self) -> String {
        for member in [Member::Node(1), Member::Node(2)] {
            let path = format!("/presence?limit={SHOWN}");
            if let Ok(page) = self.addresses.get(member, &path).await {
                let users = page["users"].as_array().cloned().unwrap_or_default();
                let told: Vec<_> = users.iter().map(in_words).collect();
                return format!("presence  {}", told.join(", "));
            }
        }
        format!("presence  {DOWN}")
    }

    async fn node_line(&self, member: Member) -> String {
        let Ok(metrics) = self.addresses.metrics(member).await else {
            return format!("{member:<9} {DOWN}");
        };
        let role = if metrics.sum("tandem_raft_is_leader", &[]) > 0.0 {
            "leader"
        } else {
            "follower"
        };
        let sessions = metrics.sum("tandem_node_sessions", &[]);
        let links = metrics.by_label("tandem_node_cti_up", "connection");
        let per_link = metrics.by_label("tandem_node_sessions", "connection");
        let links: Vec<_> = links
            .iter()
            .map(|(name, up)| {
                let health = if *up > 0.0 { "up" } else { "down" };
                let count = per_link
                    .get(name)
                    .map(|count| format!(" {count}"))
                    .unwrap_or_default();
                format!("{name} {health}{count}")
            })
            .collect();
        format!(
            "{member:<9} {sessions:>5} sessions    {role:<8}   CTI: {}",
            links.join(", ")
        )
    }
}

fn in_words(view: &serde_json::Value) -> String {
    let text = |key: &str| view[key].as_str().unwrap_or_default().replace('_', " ");
    format!("{} {}", text("user"), text("availability"))
}

/// A closed pipe ends no demo.
fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn lb_line(metrics: &Metrics) -> String {
    let up = metrics.by_label("tandem_lb_keepalive_up", "node");
    let up: Vec<_> = up
        .iter()
        .map(|(node, up)| format!("{node} {}", if *up > 0.0 { "up" } else { "down" }))
        .collect();
    let pending = metrics.sum("tandem_lb_pending_requests", &[]);
    let resent = metrics.sum("tandem_lb_resent_requests_total", &[]);
    format!(
        "keepalive: {}   {pending} pending   {resent} sent again",
        up.join(", ")
    )
}

const DOWN: &str = "down";
/// Users whose presence is in the table.
const SHOWN: usize = 5;
