//! PIDF as a watcher reads it: strict, and by itself (RFC 3863, RFC 4479, RFC 4480).

use crate::xml::Element;

/// What a document says of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub entity: String,
    /// `basic` of the only tuple.
    pub is_open: bool,
    /// The names of the person's activities, in order.
    pub activities: Vec<String>,
    pub note: Option<String>,
}

impl Document {
    pub fn read(text: &str) -> Result<Self, String> {
        let root = Element::parse(text).map_err(|error| error.to_string())?;
        if root.name != "presence" || root.namespace.as_deref() != Some(PIDF) {
            return Err(format!("the root is {} of {:?}", root.name, root.namespace));
        }
        let entity = root
            .attribute("entity")
            .ok_or("presence has no entity")?
            .to_owned();
        let tuples: Vec<_> = root
            .children
            .iter()
            .filter(|child| child.name == "tuple")
            .collect();
        let [tuple] = tuples[..] else {
            return Err(format!("{} tuples", tuples.len()));
        };
        if tuple.attribute("id").is_none_or(str::is_empty) {
            return Err("the tuple has no id".to_owned());
        }
        let is_open = match tuple.text_at(&["status", "basic"]) {
            Some("open") => true,
            Some("closed") => false,
            other => return Err(format!("basic is {other:?}")),
        };
        // RFC 3863 §4.1.6: what extends the document stands at its end.
        let last_tuple = root.children.iter().rposition(|child| child.name == "tuple");
        let person = root.children.iter().position(|child| child.name == "person");
        if person < last_tuple && person.is_some() {
            return Err("the person stands before the tuple".to_owned());
        }
        Ok(Self {
            entity,
            is_open,
            activities: activities(&root)?,
            note: note(&root),
        })
    }

    #[must_use]
    pub fn says(&self, activity: &str) -> bool {
        self.activities.iter().any(|said| said == activity)
    }
}

fn activities(root: &Element) -> Result<Vec<String>, String> {
    let Some(person) = root.child("person") else {
        return Ok(Vec::new());
    };
    if person.attribute("id").is_none_or(str::is_empty) {
        return Err("the person has no id".to_owned());
    }
    let activities = person.child("activities").map(|list| list.children.iter());
    let names = activities.into_iter().flatten().map(|child| child.name.clone());
    Ok(names.collect())
}

fn note(root: &Element) -> Option<String> {
    let of_person = root.text_at(&["person", "note"]);
    let of_tuple = root.text_at(&["tuple", "note"]);
    of_person
        .or(of_tuple)
        .or_else(|| root.text_at(&["note"]))
        .map(str::to_owned)
}

const PIDF: &str = "urn:ietf:params:xml:ns:pidf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_a_wrong_one_is_refused() {
        let document = "<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" xmlns:d=\"x\" entity=\"sip:a@b\">\
             <tuple id=\"t\"><status><basic>open</basic></status></tuple>\
             <d:person id=\"p\"><d:activities><d:busy/></d:activities></d:person></presence>";
        let read = Document::read(document).unwrap();
        assert!(read.is_open && read.says("busy") && read.entity == "sip:a@b");
        for wrong in [
            document.replace("basic>open", "basic>maybe"),
            document.replace(" id=\"t\"", ""),
            document.replace("pidf\"", "pdif\""),
            document.replace("</presence>", ""),
        ] {
            assert!(Document::read(&wrong).is_err(), "{wrong}");
        }
    }
}
