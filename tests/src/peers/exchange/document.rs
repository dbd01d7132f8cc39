//! SOAP as a strict server reads it: every element by its namespace and name, children in the schema's order.

use quick_xml::NsReader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;

/// Deeper documents are refused: no request of EWS comes near.
const DEPTH_MAX: usize = 32;

/// The namespaces that a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Soap,
    Types,
    Messages,
    /// Anything else, and none at all.
    Foreign,
}

impl Namespace {
    fn of(name: &str) -> Self {
        match name {
            SOAP => Self::Soap,
            TYPES => Self::Types,
            MESSAGES => Self::Messages,
            _ => Self::Foreign,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Soap => "s",
            Self::Types => "t",
            Self::Messages => "m",
            Self::Foreign => "?",
        }
    }
}

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    pub namespace: Namespace,
    pub name: String,
    /// Without namespace declarations.
    pub attributes: Vec<(String, String)>,
    /// Without surrounding white space.
    pub text: String,
    pub children: Vec<Self>,
}

impl Element {
    /// Reads one document.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<Self> = vec![Self::empty()];
        loop {
            let (resolved, event) = reader.read_resolved_event().map_err(|error| error.to_string())?;
            let namespace = namespace(&resolved)?;
            match event {
                Event::Start(start) => {
                    if open.len() > DEPTH_MAX {
                        return Err("nested too deeply".to_owned());
                    }
                    open.push(Self::opened(namespace, &start)?);
                }
                Event::Empty(start) => last(&mut open)?.children.push(Self::opened(namespace, &start)?),
                Event::End(_) => {
                    let mut done = open.pop().ok_or("closed too often")?;
                    done.text = done.text.trim().to_owned();
                    last(&mut open)?.children.push(done);
                }
                Event::Text(text) => last(&mut open)?.text.push_str(&text),
                Event::CData(text) => last(&mut open)?.text.push_str(&text),
                Event::GeneralRef(reference) => {
                    let reference = format!("&{};", &*reference);
                    let text = unescape(&reference).map_err(|error| error.to_string())?;
                    last(&mut open)?.text.push_str(&text);
                }
                Event::Comment(_) | Event::Decl(_) => {}
                Event::PI(_) | Event::DocType(_) => return Err("SOAP forbids what stands there".to_owned()),
                Event::Eof => break,
            }
        }
        single_root(open)
    }

    /// `t:Start` or the like, for complaints.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", self.namespace.prefix(), self.name)
    }

    #[must_use]
    pub fn is(&self, namespace: Namespace, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, namespace: Namespace, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// An `xs:sequence`: these children, each at most once and in this order, all of one namespace.
    pub fn sequence(&self, namespace: Namespace, names: &[&str]) -> Result<(), String> {
        let mut expected = names.iter();
        for child in &self.children {
            if child.namespace != namespace || !expected.any(|name| *name == child.name) {
                return Err(format!(
                    "{} stands in {} where the schema has not got it; the order is {names:?}",
                    child.label(),
                    self.label()
                ));
            }
        }
        Ok(())
    }

    /// The child, or what a schema validator says without it.
    pub fn required(&self, namespace: Namespace, name: &str) -> Result<&Self, String> {
        self.child(namespace, name)
            .ok_or_else(|| format!("{} has no {}:{name}", self.label(), namespace.prefix()))
    }

    /// A number between two bounds, both included.
    pub fn number(&self, least: u32, most: u32) -> Result<u32, String> {
        let number = self.text.parse().ok();
        let within = number.filter(|number| (least..=most).contains(number));
        within.ok_or_else(|| format!("{} is {:?}, not {least} to {most}", self.label(), self.text))
    }

    fn opened(namespace: Namespace, start: &BytesStart<'_>) -> Result<Self, String> {
        let mut element = Self {
            namespace,
            name: start.local_name().into_inner().to_owned(),
            ..Self::empty()
        };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let key = attribute.key.into_inner();
            if key != "xmlns" && !key.starts_with("xmlns:") {
                let value = unescape(&attribute.value).map_err(|error| error.to_string())?;
                element.attributes.push((key.to_owned(), value.into_owned()));
            }
        }
        Ok(element)
    }

    fn empty() -> Self {
        Self {
            namespace: Namespace::Foreign,
            name: String::new(),
            attributes: Vec::new(),
            text: String::new(),
            children: Vec::new(),
        }
    }
}

fn namespace(resolved: &ResolveResult<'_>) -> Result<Namespace, String> {
    match resolved {
        ResolveResult::Bound(name) => Ok(Namespace::of(name.0)),
        ResolveResult::Unbound => Ok(Namespace::Foreign),
        ResolveResult::Unknown(prefix) => Err(format!("the prefix {prefix:?} is not declared")),
    }
}

fn last(open: &mut [Element]) -> Result<&mut Element, String> {
    open.last_mut().ok_or_else(|| "closed too often".to_owned())
}

fn single_root(mut open: Vec<Element>) -> Result<Element, String> {
    let (Some(mut document), true) = (open.pop(), open.is_empty()) else {
        return Err("an element is not closed".to_owned());
    };
    match (document.children.pop(), document.children.is_empty()) {
        (Some(root), true) if document.text.trim().is_empty() => Ok(root),
        _ => Err("no root element, or more than one".to_owned()),
    }
}

pub(super) const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
pub(super) const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";
pub(super) const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_known_by_its_namespace_whatever_its_prefix() {
        let text =
            format!("<x:A xmlns:x=\"{TYPES}\" b=\"1 &lt; 2\"><C xmlns=\"{MESSAGES}\"> c &amp; d </C></x:A>");
        let root = Element::parse(&text).unwrap();
        assert!(root.is(Namespace::Types, "A"));
        assert_eq!(root.attribute("b"), Some("1 < 2"));
        assert_eq!(root.child(Namespace::Messages, "C").unwrap().text, "c & d");
    }

    #[test]
    fn a_sequence_has_an_order_and_a_namespace() {
        let read = |inner: &str| {
            let text = format!("<r xmlns:t=\"{TYPES}\" xmlns:m=\"{MESSAGES}\">{inner}</r>");
            Element::parse(&text).unwrap()
        };
        let names = ["A", "B", "C"];
        read("<t:A/><t:C/>").sequence(Namespace::Types, &names).unwrap();
        for wrong in ["<t:B/><t:A/>", "<t:A/><t:A/>", "<t:D/>", "<t:A/><m:B/>", "<A/>"] {
            assert!(read(wrong).sequence(Namespace::Types, &names).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for text in ["", "<a>", "<a/><b/>", "<p:a/>", "<?pi?><a/>", "x<a/>", "<a></b>"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
