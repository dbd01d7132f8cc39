//! What judges ask a world.

use tandem_cluster::successor_of_user;

use super::*;

impl World {
    pub(in crate::calendar) fn check_users(&self) {
        self.nodes.values().for_each(Calendars::check_users);
    }

    pub(in crate::calendar) fn censuses(&self) -> Vec<crate::calendar::Census> {
        self.nodes.values().map(Calendars::census).collect()
    }

    pub(in crate::calendar) fn set_users(&mut self, users: Vec<CalendarUser>) {
        self.list(users);
        self.input_all(|_| Input::DirectoryChanged);
    }

    pub(in crate::calendar) fn change_setting(&mut self, name: &str, value: &str) {
        let (name, value) = (name.to_owned(), Some(value.to_owned()));
        let applied = self.apply(Command::SettingChanged { name, value });
        assert_eq!(applied, Applied::Done);
    }

    pub(in crate::calendar) fn change_authority(&mut self, authority: Authority) {
        self.authority = authority;
        self.input_all(|_| Input::StandingChanged);
    }

    pub(in crate::calendar) fn owned_by(&self, node: NodeId) -> usize {
        let numbers = 0..self.users.len();
        numbers
            .filter(|number| successor_of_user(&name(*number), [NodeId(1), NodeId(2)]) == Some(node))
            .count()
    }

    pub(in crate::calendar) fn user_list(&self) -> Vec<CalendarUser> {
        self.users.clone()
    }

    /// What the calendar says at this moment.
    pub(in crate::calendar) fn truth(&self, number: usize) -> CalendarState {
        let items = &self.exchange.mailboxes[&address(number)].items;
        Timeline::of(items).at(self.wall_ms()).state
    }

    pub(in crate::calendar) fn shown(&self, number: usize) -> Option<CalendarState> {
        let published = self.published.get(&name(number))?;
        published.last().map(|(_, presence)| presence.state)
    }

    pub(in crate::calendar) fn explain(&self, number: usize) -> crate::calendar::Explanation {
        let owner = self.state.calendar_owner(&name(number)).unwrap();
        self.nodes[&owner].explain(&name(number)).unwrap()
    }

    pub(in crate::calendar) fn health(&self, cas: &str) -> crate::calendar::CasHealth {
        let node = self.nodes.values().next().unwrap();
        let mut all = node.cas_statuses().into_iter();
        all.find(|health| health.cas.0 == cas).unwrap()
    }

    pub(in crate::calendar) fn census(&self) -> crate::calendar::Census {
        self.nodes.values().next().unwrap().census()
    }

    pub(in crate::calendar) fn subscription_of(&self, number: usize) -> SubscriptionId {
        let mut all = self.exchange.subscriptions.iter();
        let newest = all.rfind(|(_, subscription)| subscription.mailbox == address(number));
        SubscriptionId(newest.unwrap().0.clone())
    }

    pub(in crate::calendar) fn push_attempt(&self, number: usize) -> u64 {
        let delivery = &self.exchange.subscriptions[&self.subscription_of(number).0].delivery;
        match delivery {
            crate::calendar::tests::exchange::Delivery::Push { attempt, .. } => *attempt,
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::calendar) fn verdict(
        &self,
        number: usize,
        attempt: u64,
        id: &SubscriptionId,
    ) -> CallbackVerdict {
        let owner = self.state.calendar_owner(&name(number)).unwrap();
        self.nodes[&owner].callback_verdict(&name(number), attempt, id)
    }

    /// The wall clock is set; instants go on as they were.
    pub(in crate::calendar) fn set_clock(&mut self, by_ms: i64) {
        self.clock_offset_ms += by_ms;
    }

    pub(in crate::calendar) fn wrong_users(&self) -> Vec<usize> {
        (0..self.users.len())
            .filter(|number| self.shown(*number) != Some(self.truth(*number)))
            .collect()
    }

    pub(in crate::calendar) fn unsubscribed_users(&self) -> Vec<usize> {
        let subscribed = self.exchange.subscribed_mailboxes();
        (0..self.users.len())
            .filter(|number| !subscribed.contains(address(*number).as_str()))
            .collect()
    }

    pub(in crate::calendar) fn spread(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for assignment in self.state.assignments().values() {
            *counts.entry(assignment.cas.0.clone()).or_default() += 1;
        }
        counts
    }

    pub(in crate::calendar) fn cas_of(&self, number: usize) -> String {
        self.state.assignment(&name(number)).unwrap().cas.0.clone()
    }

    pub(in crate::calendar) fn epoch_of(&self, number: usize) -> u32 {
        self.state.assignment(&name(number)).unwrap().epoch
    }

    pub(in crate::calendar) fn reported(&self, wanted: impl Fn(&Report) -> bool) -> usize {
        self.reports.iter().filter(|(_, report)| wanted(report)).count()
    }

    pub(in crate::calendar) fn moves(&self) -> usize {
        let failed = |command: &Command| match command {
            Command::CasFailed { users, .. } => users.len(),
            _ => 0,
        };
        self.proposals.iter().map(failed).sum()
    }
}
