//! Files of every format, written and read again.

use std::io::Cursor;

use ::exif::experimental::Writer;
use ::exif::{Field, In, Reader, Tag, Value};
use image::{Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

const RECORD: &str = r#"{"instruction":"ein <Hündchen> & \"mehr\" 🐶","seed":7}"#;

fn picture() -> DynamicImage {
    RgbImage::from_fn(40, 24, |x, y| Rgb([x as u8 * 5, y as u8 * 9, 90])).into()
}

fn account(source: &Metadata) -> Account<'_> {
    Account { record: RECORD, parameters: "add a dog 🐶\nSteps: 20", source, is_edit: true }
}

fn encoding(format: Format) -> Encoding {
    Encoding { format, ..Encoding::default() }
}

/// EXIF of a photograph taken on its side, with a thumbnail and a maker's note.
fn exif_of_camera() -> Vec<u8> {
    let fields = [
        (Tag::Make, Value::Ascii(vec![b"Camera".to_vec()])),
        (Tag::Orientation, Value::Short(vec![6])),
        (Tag::PixelXDimension, Value::Long(vec![24])),
        (Tag::MakerNote, Value::Undefined(vec![1; 300], 0)),
        (Tag::GPSLatitudeRef, Value::Ascii(vec![b"N".to_vec()])),
    ];
    let fields = fields.map(|(tag, value)| Field { tag, ifd_num: In::PRIMARY, value });
    let small =
        Field { tag: Tag::Compression, ifd_num: In::THUMBNAIL, value: Value::Short(vec![6]) };
    let mut writer = Writer::new();
    fields.iter().chain([&small]).for_each(|field| writer.push_field(field));
    writer.set_jpeg(b"\xff\xd8 a thumbnail \xff\xd9", In::THUMBNAIL);
    let mut bytes = Cursor::new(Vec::new());
    writer.write(&mut bytes, true).unwrap();
    bytes.into_inner()
}

fn xmp_of_camera() -> String {
    let iptc = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
    [
        "\u{feff}<?xpacket begin='' id='W5M0'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>",
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>",
        &format!("<rdf:Description xmlns:e='{iptc}' xmlns:xmp='http://ns.adobe.com/xap/1.0/' "),
        "xmlns:dc='http://purl.org/dc/elements/1.1/' e:DigitalSourceType='old' xmp:Rating='4'>",
        "<dc:rights>Jo &amp; Co</dc:rights><xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails>",
        "</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>",
    ]
    .concat()
}

fn icc() -> Vec<u8> {
    let mut profile = vec![0; 200];
    profile[..4].copy_from_slice(&200u32.to_be_bytes());
    profile[16..20].copy_from_slice(b"RGB ");
    profile[36..40].copy_from_slice(b"acsp");
    profile
}

fn source() -> Metadata {
    Metadata { exif: Some(exif_of_camera()), icc: Some(icc()), xmp: Some(xmp_of_camera()) }
}

#[test]
fn pixels_record_and_mark_come_back_from_every_format() {
    let bare = Metadata::default();
    let rgba = RgbaImage::from_fn(20, 30, |x, y| Rgba([x as u8, 9, 7, y as u8 * 8]));
    for image in [picture(), rgba.into()] {
        for format in Format::ALL {
            let bytes = encode(&image, encoding(format), &account(&bare)).unwrap();
            assert_eq!(bytes, encode(&image, encoding(format), &account(&bare)).unwrap());
            let decoded = image::load_from_memory(&bytes).unwrap();
            assert_eq!((decoded.width(), decoded.height()), (image.width(), image.height()));
            if format != Format::Jpeg {
                assert_eq!(decoded, image, "{format:?}");
            }
            assert_eq!(record(&bytes).unwrap(), RECORD, "{format:?}");
            let xmp = Metadata::read(&bytes).xmp.unwrap();
            assert!(xmp.contains("/compositeWithTrainedAlgorithmicMedia<"), "{format:?}: {xmp}");
        }
    }
}

#[test]
fn a_picture_from_nothing_is_marked_as_a_models() {
    let bare = Metadata::default();
    let account = Account { is_edit: false, ..account(&bare) };
    let bytes = encode(&picture(), encoding(Format::Png), &account).unwrap();
    assert!(Metadata::read(&bytes).xmp.unwrap().contains("/trainedAlgorithmicMedia<"));
}

#[test]
fn the_sources_metadata_are_kept_and_true_of_the_result() {
    let source = source();
    for format in Format::ALL {
        let bytes = encode(&picture(), encoding(format), &account(&source)).unwrap();
        let kept = Metadata::read(&bytes);
        assert_eq!(kept.icc, source.icc, "{format:?}");
        let exif = Reader::new().read_raw(kept.exif.unwrap()).unwrap();
        let text = |tag| exif.get_field(tag, In::PRIMARY).map(|f| f.display_value().to_string());
        let number = |tag| exif.get_field(tag, In::PRIMARY)?.value.get_uint(0);
        assert_eq!(text(Tag::Make).unwrap(), "\"Camera\"");
        assert_eq!(text(Tag::GPSLatitudeRef).unwrap(), "N");
        assert_eq!(number(Tag::Orientation), Some(1), "the pixels are upright");
        assert_eq!(number(Tag::PixelXDimension), Some(40));
        assert_eq!(number(Tag::PixelYDimension), Some(24));
        assert_eq!(text(Tag::MakerNote), None);
        assert!(exif.fields().all(|field| field.ifd_num == In::PRIMARY), "no thumbnail");
        assert_eq!(text(Tag::UserComment).is_some(), format != Format::Png);
        let xmp = kept.xmp.unwrap();
        assert!(xmp.contains("<dc:rights>Jo &amp; Co</dc:rights>"), "{xmp}");
        assert!(xmp.contains("Rating") && !xmp.contains("Thumbnails"), "{xmp}");
        assert_eq!(xmp.matches("DigitalSourceType>").count(), 2, "{xmp}");
        assert!(!xmp.contains("old"), "{xmp}");
        assert_eq!(record(&bytes).unwrap(), RECORD);
        // What was written can be a source in its turn, and does not grow.
        let again = Metadata::read(&bytes);
        let twice = encode(&picture(), encoding(format), &account(&again)).unwrap();
        assert_eq!(twice, bytes, "{format:?}");
    }
}

#[test]
fn strip_leaves_the_profile_and_our_own_account() {
    let source = source();
    for format in Format::ALL {
        let encoding = Encoding { strip: true, ..encoding(format) };
        let bytes = encode(&picture(), encoding, &account(&source)).unwrap();
        let kept = Metadata::read(&bytes);
        let exif = String::from_utf8_lossy(&kept.exif.unwrap_or_default()).into_owned();
        assert!(!exif.contains("Camera"));
        assert!(!kept.xmp.unwrap().contains("Jo"));
        assert_eq!(kept.icc, source.icc);
        assert_eq!(record(&bytes).unwrap(), RECORD);
    }
}

#[test]
fn hostile_metadata_of_a_source_are_left_out() {
    let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbb'>]><x><rdf:RDF xmlns:rdf='u'>&b;</rdf:RDF></x>";
    let rdf = "xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'";
    let deep = format!("<rdf:RDF {rdf}>{}{}</rdf:RDF>", "<a>".repeat(99), "</a>".repeat(99));
    let open = format!("<rdf:RDF {rdf}><a></rdf:RDF>");
    let entity = format!("<rdf:RDF {rdf}><a>&unknown;</a></rdf:RDF>");
    let large = format!("<rdf:RDF {rdf}>{}</rdf:RDF>", "x".repeat(20_000));
    for xmp in [bomb, &deep, &open, &entity, &large, "", "<", "\u{feff}", "</a>"] {
        let source = Metadata { xmp: Some(xmp.to_string()), ..Metadata::default() };
        let bytes = encode(&picture(), encoding(Format::WebP), &account(&source)).unwrap();
        let alone = encode(&picture(), encoding(Format::WebP), &account(&Metadata::default()));
        assert_eq!(bytes, alone.unwrap(), "{xmp:.80}");
    }
    let whole = exif_of_camera();
    let mut looped = whole.clone();
    looped[4..8].copy_from_slice(&4u32.to_le_bytes());
    let huge = [&whole[..], &[0; 1 << 19]].concat();
    let cuts = (0..whole.len()).map(|end| whole[..end].to_vec());
    for exif in cuts.chain([looped, huge]) {
        let source = Metadata { exif: Some(exif), ..Metadata::default() };
        let bytes = encode(&picture(), encoding(Format::Jpeg), &account(&source)).unwrap();
        assert_eq!(record(&bytes).unwrap(), RECORD);
    }
}

#[test]
fn what_a_format_cannot_hold_is_said() {
    let bare = Metadata::default();
    let long = "a".repeat(70_000);
    let account = Account { record: &long, ..account(&bare) };
    let message = encode(&picture(), encoding(Format::Jpeg), &account).unwrap_err().to_string();
    assert!(message.contains("JPEG") && message.contains("of 65533"), "{message}");
    encode(&picture(), encoding(Format::WebP), &account).unwrap();
    let wide = DynamicImage::from(RgbImage::new(16_384, 16));
    let message = encode(&wide, encoding(Format::WebP), &account).unwrap_err().to_string();
    assert!(message.contains("16383"), "{message}");
    for (format, quality) in [(Format::Png, 90), (Format::Jpeg, 0), (Format::Jpeg, 101)] {
        let wrong = Encoding { quality: Some(quality), ..encoding(format) };
        assert!(wrong.validate().is_err(), "{wrong:?}");
    }
}
