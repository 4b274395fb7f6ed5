//! A system that does nothing and one that gives the truth bound every figure.
#![allow(clippy::unwrap_used, reason = "a test fails by unwrapping")]

use std::path::Path;

use any2pix_agent::{EditRequest, EditSettings};
use any2pix_encoders::aesthetic::{AestheticConfig, AestheticPredictor};
use any2pix_encoders::clip::{ClipConfig, ClipModel};
use any2pix_encoders::dino::{Dino, DinoConfig};
use any2pix_encoders::lpips::{Lpips, LpipsConfig};
use any2pix_eval::published::Shown;
use any2pix_eval::suite::{Item, Suite};
use any2pix_eval::systems::{Edited, Identity, Oracle};
use any2pix_eval::{
    ColourRange, EvalError, Harness, Perception, Protocol, Published, Result, Sample, System,
    report,
};
use any2pix_nn::Parameters;
use any2pix_nn::ops::{Precision, PrecisionScope};
use candle_core::Device;
use candle_nn::VarBuilder;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage};
use serde::Deserialize;
use serde_json::{Value, json};

const SIDE: u32 = 48;
const COLOURS: [(&str, [u8; 3]); 4] = [
    ("red", [220, 30, 30]),
    ("green", [30, 200, 40]),
    ("blue", [30, 50, 220]),
    ("yellow", [230, 220, 40]),
];

fn colour(name: &str) -> [u8; 3] {
    COLOURS.iter().find(|(known, _)| *known == name).map_or([128; 3], |(_, colour)| *colour)
}

/// Names the square in the middle of a crop; an embedding is the mean colour.
struct ColourSense;

impl Perception for ColourSense {
    fn name(&self, crops: &[RgbImage]) -> Result<Vec<Option<String>>> {
        let name = |crop: &RgbImage| {
            let middle = crop.get_pixel(crop.width() / 2, crop.height() / 2).0;
            COLOURS.iter().find(|(_, c)| *c == middle).map(|(name, _)| name.to_string())
        };
        Ok(crops.iter().map(name).collect())
    }

    fn knows(&self, concept: &str) -> bool {
        COLOURS.iter().any(|(name, _)| *name == concept)
    }

    fn recognise(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        self.embed(pictures)
    }

    fn embed_text(&self, text: &str) -> Result<Option<Vec<f32>>> {
        let named = COLOURS.iter().filter(|(name, _)| text.contains(name));
        let sum = named.fold([1.0; 3], |sum, (_, colour)| {
            std::array::from_fn(|c| sum[c] + f32::from(colour[c]))
        });
        Ok(Some(sum.to_vec()))
    }

    fn hear(&self, _file: &Path) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    fn embed(&self, pictures: &[RgbImage]) -> Result<Vec<Vec<f32>>> {
        let mean = |picture: &RgbImage| {
            let count = (picture.width() * picture.height()) as f32;
            (0..3)
                .map(|c| picture.pixels().map(|p| f32::from(p.0[c])).sum::<f32>() / count - 128.0)
                .collect()
        };
        Ok(pictures.iter().map(mean).collect())
    }
}

type Square = (&'static str, u32, u32);

fn scene(squares: &[Square]) -> RgbImage {
    let mut picture = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([100 + x as u8, 100 + y as u8, 90]));
    for (name, left, top) in squares {
        for (x, y) in (0..100).map(|i| (left + i % 10, top + i / 10)) {
            picture.put_pixel(x, y, Rgb(colour(name)));
        }
    }
    picture
}

fn subject((name, x, y): Square, role: &str, modality: &str) -> Value {
    let reference = (modality == "image").then(|| format!("{name}.png"));
    json!({
        "name": name, "role": role, "modality": modality, "reference": reference,
        "familiarity": "known", "bbox": [x, y, 10, 10],
    })
}

fn words(squares: &[Square]) -> String {
    let names: Vec<&str> = squares.iter().map(|(name, ..)| *name).collect();
    format!("squares: {}", names.join(" and "))
}

struct Edit {
    kind: &'static str,
    before: Vec<Square>,
    after: Vec<Square>,
    modality: &'static str,
}

fn write_suite(root: &Path, edits: &[Edit]) -> Suite {
    std::fs::create_dir_all(root).unwrap();
    for (name, colour) in COLOURS {
        let path = root.join(format!("{name}.png"));
        RgbImage::from_pixel(20, 20, Rgb(colour)).save(path).unwrap();
    }
    let mut lines = String::new();
    for (id, edit) in edits.iter().enumerate() {
        let (source, target) = (scene(&edit.before), scene(&edit.after));
        let mask = GrayImage::from_fn(SIDE, SIDE, |x, y| {
            Luma([if source.get_pixel(x, y) == target.get_pixel(x, y) { 0 } else { 255 }])
        });
        source.save(root.join(format!("{id}-source.png"))).unwrap();
        target.save(root.join(format!("{id}-target.png"))).unwrap();
        mask.save(root.join(format!("{id}-mask.png"))).unwrap();
        let only = |these: &[Square], those: &[Square]| -> Vec<Square> {
            these.iter().filter(|square| !those.contains(square)).copied().collect()
        };
        let wanted = only(&edit.after, &edit.before);
        let mut subjects: Vec<Value> =
            wanted.iter().map(|square| subject(*square, "add", edit.modality)).collect();
        let unwanted = only(&edit.before, &edit.after);
        subjects.extend(unwanted.iter().map(|square| subject(*square, "remove", "text")));
        let stays = edit.after.iter().filter(|square| !wanted.contains(square));
        let rest: Vec<Value> = stays.map(|square| subject(*square, "", "text")).collect();
        let word = match edit.modality {
            "image" => format!("[{}.png]", wanted[0].0),
            _ => "it".into(),
        };
        let item = json!({
            "id": id.to_string(), "kind": edit.kind, "operation": edit.kind,
            "instruction": format!("{} {word} in [{id}-source.png]", edit.kind),
            "base": format!("{id}-source.png"), "target": format!("{id}-target.png"),
            "mask": format!("{id}-mask.png"),
            "subjects": subjects, "rest": rest,
            "place": (edit.kind == "add").then_some("TOP-LEFT"),
            "caption": words(&edit.after), "source_caption": words(&edit.before),
        });
        lines.push_str(&format!("{item}\n"));
    }
    std::fs::write(root.join("suite.jsonl"), lines).unwrap();
    Suite::open(root).unwrap()
}

fn edits() -> Vec<Edit> {
    let (red, blue, green) = (("red", 4, 4), ("blue", 4, 4), ("green", 4, 4));
    let far = ("yellow", 30, 30);
    vec![
        Edit { kind: "add", before: vec![far], after: vec![far, red], modality: "text" },
        Edit { kind: "add", before: vec![far], after: vec![far, blue], modality: "image" },
        Edit { kind: "remove", before: vec![far, red], after: vec![far], modality: "text" },
        Edit {
            kind: "replace",
            before: vec![far, green],
            after: vec![far, red],
            modality: "image",
        },
    ]
}

/// Gives the truth; without composing, with a grain everywhere.
struct Grainy<'a>(Oracle<'a>);

impl System for Grainy<'_> {
    fn edit(&self, item: &Item, request: &EditRequest) -> Result<Edited> {
        let edited = self.0.edit(item, request)?;
        if request.settings.compose {
            return Ok(edited);
        }
        let mut picture = edited.image.to_rgb8();
        picture.pixels_mut().for_each(|p| p.0.iter_mut().for_each(|c| *c = c.abs_diff(8)));
        Ok(Edited { image: DynamicImage::ImageRgb8(picture), ..edited })
    }

    fn composes(&self) -> bool {
        true
    }
}

fn protocol<'a>(suite: &'a Suite, published: &'a Published) -> Protocol<'a> {
    let harness = Harness {
        suite,
        eyes: Some(&ColourSense),
        published: Some(published),
        settings: EditSettings::default(),
        raw: true,
    };
    Protocol { harness, about: json!({"suite": "squares"}), eyes: None }
}

fn run(suite: &Suite, system: &dyn System, published: &Published, out: &Path) -> Vec<Sample> {
    let protocol = protocol(suite, published);
    let stopped = protocol.run(system, out, false, &mut |done, _, _| done < 2);
    assert!(matches!(stopped, Err(EvalError::Stopped)));
    let mut told = Vec::new();
    let report = protocol.run(system, out, true, &mut |done, total, _| {
        told.push((done, total));
        true
    });
    // At least the two that were done before it was stopped are not done again.
    let first = 4 - told.len() + 1;
    assert!(first > 2, "{told:?}");
    assert_eq!(told, (first..=4).map(|done| (done, 4)).collect::<Vec<_>>());
    report.unwrap().samples
}

fn all(samples: &[Sample], figure: &str) -> f64 {
    report::slices(samples)[0].figures.get(figure).map_or(f64::NAN, |estimate| estimate.mean)
}

/// Small random models under the published names.
fn write_models(root: &Path) {
    let tower = |more: Value| {
        let mut tower = json!({
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "hidden_act": "quick_gelu", "architectures": null,
        });
        tower.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        tower
    };
    let clip = json!({
        "projection_dim": 12,
        "text_config": tower(json!({
            "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407,
        })),
        "vision_config": tower(json!({"image_size": 32, "patch_size": 8})),
    });
    let dino = tower(json!({
        "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 32,
        "num_channels": 3, "qkv_bias": true,
    }));
    type Build = fn(VarBuilder, &Value);
    let clip_model: Build =
        |vb, config| drop(ClipModel::load(vb, &ClipConfig::deserialize(config).unwrap()).unwrap());
    let models: [(&str, &Value, Build); 5] = [
        ("clip-vit-base-patch32", &clip, clip_model),
        ("clip-vit-large-patch14", &clip, clip_model),
        ("pickscore", &clip, clip_model),
        ("dino-vits16", &dino, |vb, config| {
            drop(Dino::load(vb, &DinoConfig::deserialize(config).unwrap()).unwrap());
        }),
        ("aesthetic", &Value::Null, |vb, _| {
            let config = AestheticConfig { input_size: 12 };
            drop(AestheticPredictor::load(vb, &config).unwrap());
        }),
    ];
    for (seed, (name, config, build)) in models.into_iter().enumerate() {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let parameters = Parameters::new(seed as u64);
        build(parameters.builder(&Device::Cpu), config);
        parameters.save(folder.join("model.safetensors")).unwrap();
    }
    let folder = root.join("lpips");
    std::fs::create_dir_all(&folder).unwrap();
    let (network, linear) = (Parameters::new(6), Parameters::new(7));
    let builders = (network.builder(&Device::Cpu), linear.builder(&Device::Cpu));
    drop(Lpips::load(builders.0, builders.1, &LpipsConfig::default()).unwrap());
    network.save(folder.join("alexnet-owt-7be5be79.safetensors")).unwrap();
    linear.save(folder.join("alex.safetensors")).unwrap();
}

/// The truth is the target, so that its likeness to it is whole; doing nothing keeps everything and
/// goes in no direction.
fn published_metrics_are_bounded(nothing: &[Sample], truth: &[Sample]) {
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
    for figure in ["clip_i", "dino", "ssim", "ssim_inside", "similarity"] {
        assert!(near(all(truth, figure), 1.0), "{figure} of the truth: {}", all(truth, figure));
        assert!(all(nothing, figure) < all(truth, figure), "{figure} of doing nothing");
    }
    for figure in ["l1", "l2", "l1_inside", "l2_inside", "lpips", "lpips_inside"] {
        assert_eq!(all(truth, figure), 0.0, "{figure} of the truth");
        assert_ne!(all(nothing, figure), 0.0, "{figure} of doing nothing");
    }
    for figure in ["l1_outside", "l2_outside", "l1_composed", "l2_composed"] {
        assert_eq!((all(nothing, figure), all(truth, figure)), (0.0, 0.0), "{figure}");
    }
    assert!(near(all(truth, "l1_raw"), 8.0 / 255.0), "{}", all(truth, "l1_raw"));
    assert!(near(all(truth, "l2_raw"), (8.0f64 / 255.0).powi(2)), "{}", all(truth, "l2_raw"));
    assert_eq!((all(nothing, "psnr_inside") < 30.0, all(truth, "psnr_inside")), (true, 99.0));
    assert!(near(all(nothing, "ssim_composed"), 1.0));
    for figure in ["clip_sim_direction", "PlayroomCLIP_dir"] {
        assert_eq!(all(nothing, figure), 0.0, "{figure}");
    }
    for figure in ["dino_ref", "PlayroomCLIP_im"] {
        assert!(near(all(nothing, figure), 1.0), "{figure} of doing nothing");
        assert!(all(truth, figure) < 1.0 - 1e-9, "{figure} of the truth");
    }
    assert!(all(truth, "PlayroomCLIP_dir") > 0.0);
    assert!(near(all(truth, "PlayroomCLIP_caption"), 1.0));
    assert!(all(nothing, "PlayroomCLIP_caption") < 1.0 - 1e-9);
    assert!(all(truth, "dino_sub").is_finite() && all(nothing, "dino_sub").is_finite());
    assert!(near(all(nothing, "clip_sim_image"), 1.0));
    assert!(all(truth, "clip_sim_direction").abs() > 1e-6);
    assert!(all(truth, "clip_sim_image") < 1.0 - 1e-6);
    for figure in ["clip_t", "clip_sim_0", "clip_sim_1", "aesthetic", "pickscore"] {
        assert!(all(truth, figure).is_finite(), "{figure}");
    }
}

/// Edits may round their products; what measures them may not.
#[test]
fn published_metrics_do_not_depend_on_the_precision_of_edits() {
    let root = std::env::temp_dir().join(format!("any2pix-exact-{}", std::process::id()));
    write_models(&root);
    let pictures = [scene(&[("red", 4, 4)]), scene(&[("blue", 30, 4)])];
    let measure = |precision, range| {
        let _scope = PrecisionScope::new(precision);
        let published = Published::open(Some(&root)).unwrap().with_range(range);
        let shown = Shown {
            source: Some(&pictures[0]),
            target: Some(&pictures[0]),
            mask: None,
            result: &pictures[1],
            subjects: &[(pictures[0].clone(), pictures[1].clone())],
            source_caption: Some("a red square"),
            caption: Some("a blue square"),
        };
        published.figures(&shown).unwrap()
    };
    let exact = measure(Precision::F32, ColourRange::Unit);
    assert_eq!(exact.len(), 12);
    assert_eq!(exact, measure(Precision::Bf16, ColourRange::Unit));
    // The published program's range touches its own figures alone.
    let signed = measure(Precision::F32, ColourRange::Signed);
    let differ = exact.iter().filter(|(name, value)| signed[*name] != **value);
    let differ: Vec<&str> = differ.map(|(name, _)| name.as_str()).collect();
    assert_eq!(differ, ["clip_sim_0", "clip_sim_1", "clip_sim_direction", "clip_sim_image"]);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_metric_without_its_weights_is_absent_and_the_report_says_why() {
    let root = std::env::temp_dir().join(format!("any2pix-absent-{}", std::process::id()));
    let suite = write_suite(&root.join("suite"), &edits());
    write_models(&root.join("models"));
    std::fs::remove_dir_all(root.join("models/dino-vits16")).unwrap();
    std::fs::remove_dir_all(root.join("models/aesthetic")).unwrap();
    std::fs::remove_dir_all(root.join("models/lpips")).unwrap();
    let published = Published::open(Some(&root.join("models"))).unwrap();
    let truth = run(&suite, &Grainy(Oracle(&suite)), &published, &root.join("out"));
    let has = |figure: &str| truth.iter().any(|sample| sample.figures.contains_key(figure));
    assert!(has("clip_i") && has("pickscore") && !has("dino") && !has("aesthetic"));
    let absent = published.absent(suite.has_captions());
    let names: Vec<&str> = absent.keys().copied().collect();
    let lpips = ["lpips", "lpips_inside", "lpips_outside"];
    assert_eq!(names[..4], ["aesthetic", "dino", "dino_ref", "dino_sub"]);
    assert_eq!(names[4..], lpips);
    let table = std::fs::read_to_string(root.join("out/table.md")).unwrap();
    assert!(table.contains("- `dino`: ") && table.contains("dino-vits16: no such folder"));
    assert!(!table.contains("DINO |") && table.contains("CLIP-I |"), "{table}");

    let nowhere = Published::open(None).unwrap().absent((true, true));
    assert!(nowhere["clip_i"].contains("--metrics-model"), "{}", nowhere["clip_i"]);
    assert!(published.absent((true, false))["clip_sim_direction"].contains("source"));
    assert!(published.absent((false, false)).contains_key("clip_t"));

    std::fs::write(root.join("models/pickscore/config.json"), "{}").unwrap();
    let refused = Published::open(Some(&root.join("models"))).err().unwrap().to_string();
    assert!(refused.contains("pickscore") && refused.contains("projection_dim"), "{refused}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn doing_nothing_and_telling_the_truth_bound_every_figure() {
    let root = std::env::temp_dir().join(format!("any2pix-bounds-{}", std::process::id()));
    let suite = write_suite(&root.join("suite"), &edits());
    write_models(&root.join("models"));
    let published = Published::open(Some(&root.join("models"))).unwrap();
    let nothing = run(&suite, &Identity(&suite), &published, &root.join("nothing"));
    let truth = run(&suite, &Grainy(Oracle(&suite)), &published, &root.join("truth"));
    for figure in ["plan_right", "edit_right", "locator_hit", "place_obeyed", "reference_found"] {
        assert_eq!(all(&nothing, figure), 0.0, "{figure} of doing nothing");
        assert_eq!(all(&truth, figure), 1.0, "{figure} of the truth");
    }
    assert_eq!(all(&nothing, "base_right"), 1.0);
    assert_eq!(all(&nothing, "rest_there"), 1.0);
    assert_eq!(all(&nothing, "judge_edit_right"), 1.0);
    assert_eq!((all(&nothing, "psnr_composed"), all(&truth, "psnr_composed")), (99.0, 99.0));
    let grain = 10.0 * (255.0f64.powi(2) / 64.0).log10();
    assert!((all(&truth, "psnr_raw") - grain).abs() < 1e-9);
    published_metrics_are_bounded(&nothing, &truth);

    let table = std::fs::read_to_string(root.join("truth/table.md")).unwrap();
    assert!(!table.contains("Not measured"), "{table}");
    assert!(table.contains("| replace × mixed | 1 | 0.00 | 1.00 |"), "{table}");
    assert_eq!(report::read(&root.join("truth")).unwrap().len(), 4);
    assert!(root.join("truth/contact_sheet.png").exists());
    std::fs::remove_dir_all(root).unwrap();
}

/// Stopped after any number of items, on any number of threads.
#[test]
fn the_same_run_gives_the_same_bytes() {
    let root = std::env::temp_dir().join(format!("any2pix-again-{}", std::process::id()));
    let suite = write_suite(&root.join("suite"), &edits());
    write_models(&root.join("models"));
    let published = Published::open(Some(&root.join("models"))).unwrap();
    let bytes = |name: &str, threads: usize| {
        let out = root.join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&suite, &Grainy(Oracle(&suite)), &published, &out));
        ["samples.jsonl", "results.json", "table.md"].map(|f| std::fs::read(out.join(f)).unwrap())
    };
    let first = bytes("first", 1);
    assert!(first.iter().all(|file| !file.is_empty()));
    assert_eq!(first, bytes("second", 3));
    std::fs::remove_dir_all(root).unwrap();
}
