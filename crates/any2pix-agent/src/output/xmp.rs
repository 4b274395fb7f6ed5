//! XMP: the mark that a model had a hand in the picture, our record, and what the source said.

use quick_xml::NsReader;
use quick_xml::escape::{partial_escape, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{LocalName, Namespace, QName, ResolveResult};

const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const IPTC_EXT: &str = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const XMP: &str = "http://ns.adobe.com/xap/1.0/";
const TIFF: &str = "http://ns.adobe.com/tiff/1.0/";
const ANY2PIX: &str = "any2pix:ns:1.0/";
const RECORD: &str = "record";

/// The vocabulary of IPTC's `DigitalSourceType`.
const SOURCE_TYPES: &str = "http://cv.iptc.org/newscodes/digitalsourcetype";
const PACKET_BEGIN: &str = "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n";
const PACKET_END: &str = "\n<?xpacket end=\"w\"?>";

/// More of the source's XMP is not kept: a segment of a JPEG must hold the record, too.
const MAX_SOURCE: usize = 16 << 10;
/// Elements in elements.
const MAX_DEPTH: usize = 32;

/// Properties of a source that are not true of the result, or that we say ourselves.
const DROPPED: [(&str, &str); 5] = [
    (IPTC_EXT, "DigitalSourceType"),
    (XMP, "CreatorTool"),
    (XMP, "Thumbnails"),
    (TIFF, "Orientation"),
    (ANY2PIX, RECORD),
];

/// A packet with the mark, with `record` if it is given, and with what `source` says. A source
/// that is no XMP, or more than anyone needs, is left out.
pub(super) fn packet(source: Option<&str>, is_edit: bool, record: Option<&str>) -> String {
    let own = description(is_edit, record);
    let body = match source.and_then(cleaned) {
        Some((mut body, end_of_rdf)) => {
            body.insert_str(end_of_rdf, &own);
            body
        }
        None => format!(
            "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n<rdf:RDF xmlns:rdf=\"{RDF}\">\n{own}\
             </rdf:RDF>\n</x:xmpmeta>"
        ),
    };
    format!("{PACKET_BEGIN}{}{PACKET_END}", body.trim())
}

fn description(is_edit: bool, record: Option<&str>) -> String {
    let kind = match is_edit {
        true => "compositeWithTrainedAlgorithmicMedia",
        false => "trainedAlgorithmicMedia",
    };
    let tool = concat!("any2pix ", env!("CARGO_PKG_VERSION"));
    let mut text = [
        format!("<rdf:Description xmlns:rdf=\"{RDF}\" rdf:about=\"\" "),
        format!(
            "xmlns:Iptc4xmpExt=\"{IPTC_EXT}\" xmlns:xmp=\"{XMP}\" xmlns:any2pix=\"{ANY2PIX}\">\n"
        ),
        format!("<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPES}/{kind}"),
        format!("</Iptc4xmpExt:DigitalSourceType>\n<xmp:CreatorTool>{tool}</xmp:CreatorTool>\n"),
    ]
    .concat();
    if let Some(record) = record {
        // JSON escapes control characters; these two are no characters of XML either.
        let record = record.replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff");
        text += &format!("<any2pix:{RECORD}>{}</any2pix:{RECORD}>\n", partial_escape(&record));
    }
    text + "</rdf:Description>\n"
}

/// The record in a packet, if it has one.
pub(super) fn record(packet: &str) -> Option<String> {
    let mut reader = NsReader::from_str(packet);
    let mut begin = None;
    loop {
        let before = usize::try_from(reader.buffer_position()).ok()?;
        let event = reader.read_event().ok()?;
        match (&event, begin) {
            (Event::Eof, _) => return None,
            (Event::Start(tag), None) if is(&reader, tag.name(), ANY2PIX, RECORD) => {
                begin = Some(usize::try_from(reader.buffer_position()).ok()?);
            }
            (Event::End(_), Some(begin)) => {
                return unescape(packet.get(begin..before)?).ok().map(|text| text.into_owned());
            }
            _ => {}
        }
    }
}

/// The elements of a source's packet without what is dropped, and the place before the end of its
/// RDF; `None` for what is no XMP.
fn cleaned(source: &str) -> Option<(String, usize)> {
    let source = source.trim_start_matches('\u{feff}');
    if source.len() > MAX_SOURCE {
        return None;
    }
    let mut reader = NsReader::from_str(source);
    let (mut kept, mut end_of_rdf) = (String::new(), None);
    let (mut depth, mut dropped_at) = (0, None);
    let (mut description, mut is_space_dropped) = (None, false);
    loop {
        let before = usize::try_from(reader.buffer_position()).ok()?;
        let event = reader.read_event().ok()?;
        let piece = source.get(before..usize::try_from(reader.buffer_position()).ok()?)?;
        match &event {
            Event::Eof => break,
            // Entities of its own could hold anything.
            Event::DocType(_) => return None,
            Event::PI(_) | Event::Decl(_) | Event::Comment(_) => {}
            Event::Start(tag) | Event::Empty(tag) => {
                let is_open = matches!(event, Event::Start(_));
                depth += usize::from(is_open);
                if depth > MAX_DEPTH {
                    return None;
                }
                let is_dropped = DROPPED.iter().any(|(ns, name)| is(&reader, tag.name(), ns, name));
                if dropped_at.is_none() && !is_dropped {
                    let start = kept.len();
                    kept.push_str(&without_dropped(&reader, tag, is_open)?);
                    is_space_dropped = false;
                    if is_open && is(&reader, tag.name(), RDF, "Description") && says_nothing(tag) {
                        description = Some((depth, start, kept.len()));
                    }
                } else if dropped_at.is_none() && is_open {
                    dropped_at = Some(depth);
                }
            }
            Event::End(tag) => {
                let of_this = description.filter(|(at, ..)| *at == depth);
                match of_this {
                    // All that it said is dropped, as of the one that we wrote ourselves.
                    Some((_, start, inside)) if kept[inside..].trim().is_empty() => {
                        kept.truncate(start);
                        is_space_dropped = true;
                    }
                    _ if dropped_at.is_none() => {
                        if is(&reader, tag.name(), RDF, "RDF") {
                            end_of_rdf = Some(kept.len());
                        }
                        kept.push_str(piece);
                        is_space_dropped = false;
                    }
                    _ => {}
                }
                description = description.filter(|(at, ..)| *at != depth);
                dropped_at = dropped_at.filter(|at| *at != depth);
                depth -= 1; // the reader refuses an end without a start
            }
            Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => {
                if dropped_at.is_none() && !(is_space_dropped && piece.trim().is_empty()) {
                    kept.push_str(piece);
                }
            }
        }
    }
    unescape(&kept).ok()?; // no entities but XML's own
    end_of_rdf.filter(|_| depth == 0).map(|end| (kept, end))
}

/// Whether a tag has no attribute but declarations and the `about` that every description has.
fn says_nothing(tag: &BytesStart) -> bool {
    let is_form = |key: &str| key.starts_with("xmlns") || key.ends_with(":about");
    tag.attributes().flatten().all(|attribute| is_form(attribute.key.0))
}

/// A tag without the attributes that are dropped.
fn without_dropped(reader: &NsReader<&[u8]>, tag: &BytesStart, is_open: bool) -> Option<String> {
    let name: &str = tag.name().0;
    let mut text = format!("<{name}");
    for attribute in tag.attributes() {
        let attribute = attribute.ok()?;
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        if !DROPPED.iter().any(|(ns, name)| is_named(&namespace, local, ns, name)) {
            let quote = if attribute.value.contains('"') { '\'' } else { '"' };
            let key: &str = attribute.key.0;
            text += &format!(" {key}={quote}{}{quote}", attribute.value);
        }
    }
    Some(text + if is_open { ">" } else { "/>" })
}

fn is(reader: &NsReader<&[u8]>, name: QName, namespace: &str, local: &str) -> bool {
    let (found, name) = reader.resolver().resolve_element(name);
    is_named(&found, name, namespace, local)
}

fn is_named(found: &ResolveResult, name: LocalName, namespace: &str, local: &str) -> bool {
    *found == ResolveResult::Bound(Namespace(namespace)) && name.as_ref() == local
}
