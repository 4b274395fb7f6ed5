//! Published test sets, written small as their authors lay them out, become suites.
#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use std::fs;
use std::path::{Path, PathBuf};

use any2pix_agent::Instruction;
use any2pix_eval::Suite;
use any2pix_eval::layouts::{Layout, import};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::json;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("any2pix-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("published")).unwrap();
        Self(path)
    }

    fn published(&self) -> PathBuf {
        self.0.join("published")
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.published().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn picture(&self, name: &str, shade: u8) {
        self.write(name, "");
        let picture = RgbImage::from_fn(40, 32, |x, y| Rgb([x as u8, y as u8, shade]));
        picture.save(self.published().join(name)).unwrap();
    }

    fn import(&self, layout: Layout, source: &Path) -> Suite {
        let out = self.0.join("suite");
        let count = import(layout, source, &out).unwrap();
        let suite = Suite::open(&out).unwrap();
        assert_eq!(suite.items.len(), count);
        for item in &suite.items {
            let names = Instruction::parse(&item.instruction).unwrap().names;
            for name in names.iter().chain(&item.base).chain(&item.mask) {
                assert!(suite.path(name).unwrap().is_file(), "{name}");
            }
        }
        suite
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn magicbrush_turns_are_independent_edits_with_masks_and_captions() {
    let folder = Folder::new("magicbrush");
    let images = |name: &str| format!("images/139/{name}");
    for (name, shade) in [("139-input.png", 1), ("139-output1.png", 2), ("139-output2.png", 3)] {
        folder.picture(&images(name), shade);
    }
    // The mask is the source with a transparent hole.
    let hole = RgbaImage::from_fn(40, 32, |x, y| {
        Rgba([x as u8, y as u8, 1, if x < 10 && y < 8 { 0 } else { 255 }])
    });
    for name in ["139-mask1.png", "139-mask2.png"] {
        hole.save(folder.published().join(images(name))).unwrap();
    }
    let turn = |input: &str, number: u32, instruction: &str| {
        json!({
            "input": input, "mask": format!("139-mask{number}.png"),
            "output": format!("139-output{number}.png"), "instruction": instruction,
        })
    };
    let sessions = json!({ "139": [
        turn("139-input.png", 1, "Put a cat on the seat."),
        turn("139-output1.png", 2, "make the [cat] blue"),
    ]});
    folder.write("edit_sessions.json", sessions.to_string());
    let captions = json!({ "139": {
        "139-input.png": "a seat", "139-output1.png": "a cat on a seat",
        "139-output2.png": "a blue cat on a seat",
    }});
    folder.write("global_descriptions.json", captions.to_string());
    let suite = folder.import(Layout::MagicBrush, &folder.published());
    let [first, second] = suite.items.as_slice() else { unreachable!() };
    assert_eq!((first.id.as_str(), second.kind.as_str()), ("139-1", "turn 2"));
    assert_eq!(first.instruction, "[media/139-1-source.png]: Put a cat on the seat.");
    assert_eq!(second.instruction, "[media/139-2-source.png]: make the \\[cat\\] blue");
    assert_eq!(first.caption.as_deref(), Some("a cat on a seat"));
    assert_eq!(second.source_caption.as_deref(), Some("a cat on a seat"));
    assert_eq!(first.source_caption.as_deref(), Some("a seat"));
    let mask = suite.mask(first.mask.as_ref().unwrap()).unwrap();
    assert_eq!((mask.get_pixel(3, 3).0, mask.get_pixel(20, 20).0), ([255], [0]));
    let source = suite.picture(second.base.as_ref().unwrap()).unwrap();
    assert_eq!(source.get_pixel(0, 0).0[2], 2, "the second turn starts from the first's truth");
    let target = suite.picture(second.target.as_ref().unwrap()).unwrap();
    assert_eq!(target.get_pixel(0, 0).0[2], 3);
}

/// A column of a Parquet file: text, a number, or pictures as a group of bytes and path.
enum Column {
    Text(&'static str, Vec<&'static str>),
    Number(&'static str, Vec<i64>),
    Pictures(&'static str, Vec<Vec<u8>>),
}

/// Writes columns as Hugging Face does: everything optional, pictures in groups, one row group.
fn parquet(path: &Path, columns: &[Column]) {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let declare = |column: &Column| match column {
        Column::Text(name, _) => format!("optional binary {name} (UTF8);"),
        Column::Number(name, _) => format!("optional int64 {name};"),
        Column::Pictures(name, _) => {
            format!(
                "optional group {name} {{ optional binary bytes; optional binary path (UTF8); }}"
            )
        }
    };
    let fields: String = columns.iter().map(declare).collect();
    let schema = parquet::schema::parser::parse_message_type(&format!("message m {{ {fields} }}"));
    let file = fs::File::create(path).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer =
        SerializedFileWriter::new(file, schema.unwrap().into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut bytes = |values: Vec<ByteArray>, level: i16| {
        let mut column = group.next_column().unwrap().unwrap();
        let levels = vec![level; values.len()];
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
    };
    let mut numbers = Vec::new();
    for column in columns {
        match column {
            Column::Text(_, texts) => bytes(texts.iter().map(|text| (*text).into()).collect(), 1),
            Column::Pictures(_, pictures) => {
                bytes(pictures.iter().map(|p| p.clone().into()).collect(), 2);
                bytes(pictures.iter().map(|_| "a.png".into()).collect(), 2);
            }
            Column::Number(_, values) => numbers.push(values),
        }
    }
    for values in numbers {
        let mut column = group.next_column().unwrap().unwrap();
        let levels = vec![1; values.len()];
        column.typed::<Int64Type>().write_batch(values, Some(&levels), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = RgbImage::from_fn(40, 32, |x, y| Rgb([x as u8, y as u8, shade]));
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn parquet_files_of_emu_edit_and_magicbrush() {
    let folder = Folder::new("parquet");
    fs::create_dir_all(folder.published().join("data")).unwrap();
    let emu = |task: &'static str| {
        [
            Column::Text("instruction", vec!["remove the [cup]", "make it a sketch"]),
            Column::Pictures("image", vec![png(1), png(2)]),
            Column::Text("task", vec![task, "style"]),
            Column::Text("input_caption", vec!["a cup", "a lake"]),
            Column::Text("output_caption", vec!["a table", "a sketch of a lake"]),
            Column::Number("idx", vec![7, 9]),
        ]
    };
    let data = folder.published().join("data");
    parquet(&data.join("test-00000-of-00001.parquet"), &emu("remove"));
    parquet(&data.join("validation-00000-of-00001.parquet"), &emu("global"));
    let suite = folder.import(Layout::EmuEdit, &folder.published());
    let kinds: Vec<_> = suite.items.iter().map(|item| item.kind.as_str()).collect();
    assert_eq!(kinds, ["remove", "style"], "the validation split is another one");
    let item = &suite.items[0];
    assert_eq!(item.instruction, "[media/00000-7-source.png]: remove the \\[cup\\]");
    assert_eq!((item.caption.as_deref(), &item.target), (Some("a table"), &None));
    let source = suite.picture(suite.items[1].base.as_ref().unwrap()).unwrap();
    assert_eq!(source.get_pixel(0, 0).0[2], 2);

    let brush = folder.0.join("brush");
    fs::create_dir_all(&brush).unwrap();
    let columns = [
        Column::Text("img_id", vec!["139"]),
        Column::Pictures("source_img", vec![png(1)]),
        Column::Pictures("mask_img", vec![png(1)]),
        Column::Text("instruction", vec!["put a cat on the seat"]),
        Column::Pictures("target_img", vec![png(3)]),
        Column::Number("turn_index", vec![1]),
    ];
    parquet(&brush.join("dev-00000-of-00001.parquet"), &columns);
    let suite = folder.import(Layout::MagicBrush, &brush);
    assert_eq!((suite.items.len(), suite.items[0].id.as_str()), (1, "139-1"));
    assert!(suite.items[0].target.is_some() && suite.items[0].mask.is_some());
    fs::write(brush.join("dev-00000-of-00001.parquet"), "PAR1 but not").unwrap();
    let error = import(Layout::MagicBrush, &brush, &folder.0.join("no")).unwrap_err();
    assert!(error.to_string().contains("dev-00000"), "{error}");
}

#[test]
fn instruct_pix2pix_gives_its_last_twentieth() {
    let folder = Folder::new("ip2p");
    let mut seeds = Vec::new();
    for index in 0..40 {
        let name = format!("{index:07}");
        let (key, seed) = (if index == 38 { "input" } else { "caption" }, format!("7{index}"));
        let prompt = json!({ key: "a hill", "edit": "make it snow", "output": "a hill in snow" });
        folder.write(&format!("{name}/prompt.json"), prompt.to_string());
        for which in 0..2 {
            folder.picture(&format!("{name}/{seed}_{which}.jpg"), which * 200);
        }
        seeds.push(json!([name, [seed, "99"]]));
    }
    folder.write("seeds.json", json!(seeds).to_string());
    let suite = folder.import(Layout::InstructPix2Pix, &folder.published());
    let ids: Vec<_> = suite.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["0000038", "0000039"]);
    let item = &suite.items[0];
    assert_eq!(item.instruction, "[media/0000038-source.jpg]: make it snow");
    assert_eq!(item.source_caption.as_deref(), Some("a hill"));
    assert_eq!(item.caption.as_deref(), Some("a hill in snow"));
}

#[test]
fn mm_instruct_captions_become_media_or_words() {
    let folder = Folder::new("mm");
    folder.picture("coco/1.jpg", 5);
    folder.write("sounds/2.wav", "not decoded here");
    let map = json!({
        "a harbour at dusk": { "fpath": "coco/1.jpg.npz", "key": "clip" },
        "thunder rolls": { "fpath": "sounds/2.wav.npz", "key": "clip" },
    });
    folder.write("media_map.json", map.to_string());
    let tasks = json!([{
        "task": "any2any", "base": "[A harbour at dusk.]", "result": "a harbour in a storm",
        "conversations": [
            { "from": "human", "value":
              "add [Thunder rolls.] and [a gull] to [A harbour at dusk.]" },
            { "from": "gpt", "value": "Absolutely, its,<base>[A harbour at dusk.]" },
        ],
    }]);
    folder.write("instruction.json", tasks.to_string());
    let suite = folder.import(Layout::MmInstruct, &folder.published());
    let item = &suite.items[0];
    let expected = "add [media/00000-1.wav] and a gull to [media/00000-3.jpg]";
    assert_eq!(item.instruction, expected);
    assert_eq!(item.base.as_deref(), Some("media/00000-3.jpg"));
    assert_eq!(item.caption.as_deref(), Some("a harbour in a storm"));
    assert_eq!(item.target, None);
}

#[test]
fn dreambench_has_every_subject_under_every_prompt_of_its_kind() {
    let folder = Folder::new("dreambench");
    for name in ["can/00.jpg", "can/01.jpg", "dog6/02.jpg"] {
        folder.picture(name, 9);
    }
    let text = "Classes\n\nsubject_name,class\ncan,can\ndog6,dog\n\nPrompts\n\nObject Prompts\n\n\
                prompt_list = [\n'a {0} {1} in the snow'.format(unique_token, class_token),\n\
                'a red {0} {1}'.format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\n\
                prompt_list = [\n'a {0} {1} wearing a red hat'.format(unique_token, class_token),\n]\n";
    folder.write("prompts_and_classes.txt", text);
    let suite = folder.import(Layout::DreamBench, &folder.published());
    let said: Vec<_> = suite.items.iter().map(|item| item.instruction.as_str()).collect();
    let expected = [
        "generate a [media/can.jpg] in the snow",
        "generate a red [media/can.jpg]",
        "generate a [media/dog6.jpg] wearing a red hat",
    ];
    assert_eq!(said, expected);
    assert_eq!(suite.items[2].caption.as_deref(), Some("a dog wearing a red hat"));
    assert!(suite.items.iter().all(|item| item.base.is_none() && item.target.is_none()));
}

#[test]
fn a_test_set_of_ones_own() {
    let folder = Folder::new("custom");
    for name in ["park.png", "dog.png", "truth.png", "mask.png"] {
        folder.picture(name, 1);
    }
    let lines = [
        json!({ "id": "first one", "source": "park.png", "instruction": "add [thing] to [source]",
                "references": { "thing": "dog.png" }, "target": "truth.png", "mask": "mask.png",
                "caption": "a dog in a park", "operation": "add", "seed": 4 }),
        json!({ "source": "park.png", "instruction": "make it night" }),
        json!({ "source": "park.png", "instruction": "add [dog.png]" }),
        json!({ "instruction": "generate a hill" }),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    folder.write("edits.jsonl", text);
    let file = folder.published().join("edits.jsonl");
    let suite = folder.import(Layout::Custom, &file);
    let said: Vec<_> = suite.items.iter().map(|item| item.instruction.as_str()).collect();
    let expected = [
        "add [media/first_one-1.png] to [media/first_one-source.png]",
        "[media/00001-source.png]: make it night",
        "[media/00002-source.png]: add [media/00002-1.png]",
        "generate a hill",
    ];
    assert_eq!(said, expected);
    let first = &suite.items[0];
    assert_eq!((first.seed, first.kind.as_str()), (4, "add"));
    assert!(first.target.is_some() && first.mask.is_some() && suite.items[1].target.is_none());

    for (line, why) in [
        (json!({ "source": "../park.png", "instruction": "x" }), "leaves the folder"),
        (json!({ "source": "gone.png", "instruction": "x" }), "gone.png"),
        (json!({ "source": "park.png", "instruction": "x", "sauce": 1 }), "sauce"),
        (json!({ "source": "park.png" }), "instruction"),
    ] {
        folder.write("edits.jsonl", format!("\n{line}\n"));
        let error = import(Layout::Custom, &file, &folder.0.join("no")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("line 2"), "{error}");
    }
}
