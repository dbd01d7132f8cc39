//! What a story lets go wrong at a Client Access Server.

use std::time::Duration;

use super::request::OperationName;

/// Which requests are hit, in what way, and how often.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `None`: any.
    pub operation: Option<OperationName>,
    /// Of the impersonated mailbox, its primary address; `None`: any.
    pub mailbox: Option<String>,
    /// `None`: until it is taken back.
    pub times: Option<u32>,
    pub effect: Effect,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A response message with that code, HTTP 200.
    Code(&'static str),
    /// A SOAP fault with that code, HTTP 500 as Exchange does.
    SoapFault(&'static str),
    /// The same with HTTP 200, as other servers do.
    SoapFaultWith200(&'static str),
    /// ErrorServerBusy with BackOffMilliseconds.
    Busy { back_off: Duration },
    /// No SOAP at all; `Retry-After` in seconds.
    Http { status: u16, retry_after: Option<u32> },
    /// A true answer, late.
    Slow(Duration),
    /// No answer.
    Hang,
    /// Half an answer, then the connection is cut.
    CutOff,
}

impl Fault {
    /// Hits every request until it is taken back.
    #[must_use]
    pub fn always(effect: Effect) -> Self {
        Self {
            operation: None,
            mailbox: None,
            times: None,
            effect,
        }
    }

    #[must_use]
    pub fn of(self, operation: OperationName) -> Self {
        Self {
            operation: Some(operation),
            ..self
        }
    }

    #[must_use]
    pub fn to(self, mailbox: &str) -> Self {
        Self {
            mailbox: Some(mailbox.to_ascii_lowercase()),
            ..self
        }
    }

    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    fn hits(&self, operation: Option<OperationName>, mailbox: Option<&str>) -> bool {
        self.times != Some(0)
            && self.operation.is_none_or(|wanted| operation == Some(wanted))
            && self
                .mailbox
                .as_deref()
                .is_none_or(|wanted| mailbox.is_some_and(|mailbox| mailbox.eq_ignore_ascii_case(wanted)))
    }
}

/// The faults of one server; the first that fits is used.
#[derive(Debug, Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What happens to this request, counted.
    pub fn next(&mut self, operation: Option<OperationName>, mailbox: Option<&str>) -> Option<Effect> {
        let fault = self.0.iter_mut().find(|fault| fault.hits(operation, mailbox))?;
        if let Some(times) = &mut fault.times {
            *times -= 1;
        }
        Some(fault.effect.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_hits_what_it_is_meant_for_as_often_as_it_is_meant_to() {
        let mut faults = Faults::default();
        let fault = Fault::always(Effect::Hang)
            .of(OperationName::FindItem)
            .to("Ana@lab.test")
            .times(1);
        faults.add(fault);
        let find = Some(OperationName::FindItem);
        assert_eq!(
            faults.next(Some(OperationName::GetFolder), Some("ana@lab.test")),
            None
        );
        assert_eq!(faults.next(find, Some("bob@lab.test")), None);
        assert_eq!(faults.next(find, Some("ana@lab.test")), Some(Effect::Hang));
        assert_eq!(faults.next(find, Some("ana@lab.test")), None);
    }
}
