//! Walks the registry: every type has docs with an example that is one, refuses wrong arities, shapes and fields in a
//! sentence that names it, and is held to Caffe's numbers or says why it cannot be. Its gradients: `gradient_check.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use safetensors::SafeTensors;
use sparknet_proto::{caffe::NetParameter, text};

use super::{
    Arity, Gradients, LAYERS, LayerDef,
    gradient_check::{input, layer_text, net, spec},
};
use crate::SpecError;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_type_has_gradient_cases_or_a_reason_for_none() {
    for def in LAYERS {
        match def.gradients {
            Gradients::Check(cases) => assert!(!cases.is_empty(), "{} has no GRADIENT_CASES", def.type_name),
            Gradients::None(reason) => assert!(!reason.is_empty(), "{} has no reason", def.type_name),
        }
    }
}

/// The files of this folder's layers, by path.
fn sources() -> BTreeMap<PathBuf, String> {
    let folder = project().join("crates/engine/src/layers");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// The layers of the examples in a file's docs.
fn examples(source: &str) -> NetParameter {
    let docs = source.lines().map_while(|line| line.strip_prefix("//!"));
    let mut inside = false;
    let examples: Vec<&str> = docs
        .filter(|line| {
            let is_fence = line.trim().starts_with("```");
            inside = if is_fence { line.trim() == "```prototxt" } else { inside };
            inside && !is_fence
        })
        .collect();
    let examples = examples.join("\n");
    text::parse("example", &examples).unwrap_or_else(|error| panic!("{error}\n{examples}"))
}

#[test]
fn every_type_has_docs_with_an_example_that_is_one() {
    let mut described = BTreeSet::new();
    for (path, source) in sources() {
        for mut layer in examples(&source).layer {
            layer.include.clear();
            let net = NetParameter {
                layer: vec![layer.clone()],
                ..Default::default()
            };
            spec(&text::print(&net)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let title = source.lines().take_while(|line| *line != "//!").collect::<String>();
            if title.contains(layer.r#type()) {
                described.insert(layer.r#type().to_owned());
            }
        }
    }
    for def in LAYERS {
        assert!(described.contains(def.type_name), "{} has no example", def.type_name);
        assert!(
            !def.summary.is_empty() && !def.summary.ends_with('.'),
            "{}",
            def.type_name
        );
    }
}

/// Parameters that the types without a gradient case want, and how many tops go with them.
fn valid_params(def: &LayerDef) -> &'static str {
    match def.gradients {
        Gradients::Check(cases) => cases[0].params,
        Gradients::None(_) => match def.type_name {
            "CoSData" => "cos_data_param { batch_size: 1 top { name: 'c' type: INT sample_num_axes: 0 } }",
            "Data" => "data_param { source: 'db' batch_size: 1 }",
            "DummyData" => "dummy_data_param { shape { dim: 1 } }",
            "ImageData" => "image_data_param { source: 'list' }",
            "HDF5Data" => "hdf5_data_param { source: 'list' batch_size: 1 }",
            "HDF5Output" => "hdf5_output_param { file_name: 'f.h5' }",
            "Input" => "input_param { shape { dim: 1 } }",
            "MemoryData" => "memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 }",
            "WindowData" => "window_data_param { source: 'list' batch_size: 1 } transform_param { crop_size: 8 }",
            "Python" => "python_param { module: 'm' layer: 'L' }",
            _ => "",
        },
    }
}

/// Counts that an arity does not allow.
fn wrong_counts(arity: Arity) -> Vec<usize> {
    match arity {
        Arity::Exactly(0) => vec![1],
        Arity::Exactly(n) => vec![n - 1, n + 1],
        Arity::AtLeast(n) => (0..n).collect(),
        Arity::Between(low, high) => (0..low).chain([high + 1]).collect(),
    }
}

/// A count that an arity allows.
fn right_count(arity: Arity) -> usize {
    match arity {
        Arity::Exactly(n) | Arity::AtLeast(n) | Arity::Between(n, _) => n,
    }
}

#[test]
fn wrong_arities_are_refused_by_name() {
    for def in LAYERS {
        let (bottoms, tops) = (right_count(def.bottoms), right_count(def.tops));
        let is_loss = def.type_name.ends_with("Loss");
        let wrong_bottoms = wrong_counts(def.bottoms).into_iter().map(|wrong| (wrong, tops));
        let wrong_tops = wrong_counts(def.tops).into_iter().map(|wrong| (bottoms, wrong));
        // A loss without a top gets one.
        for (bottoms, tops) in wrong_bottoms
            .chain(wrong_tops)
            .filter(|(_, tops)| !(is_loss && *tops == 0))
        {
            let names: Vec<String> = (0..tops).map(|i| format!("t{i}")).collect();
            let text = layer_text(def, valid_params(def), bottoms, &names);
            let error = spec(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
            let (type_name, message) = (def.type_name, error.to_string());
            assert!(message.starts_with(&format!("layer 'L' ({type_name})")), "{message}");
            // Where the number of tops or bottoms goes with a list, the list may be named first.
            assert!(
                matches!(error, SpecError::Arity { .. } | SpecError::Field { .. }),
                "{message}"
            );
        }
    }
}

/// What the test of wrong shapes does with a type.
enum WrongShapes {
    /// It refuses each: the bottoms' shapes, and the layer's own fields.
    Refused(&'static [(&'static [&'static [usize]], &'static str)]),
    /// It takes all shapes, for this reason.
    None(&'static str),
}

fn wrong_shapes(type_name: &str) -> WrongShapes {
    use WrongShapes::{None, Refused};
    match type_name {
        "AbsVal" | "BNLL" | "Clip" | "Dropout" | "ELU" | "Exp" | "Log" | "Power" | "ReLU" | "Sigmoid" | "Swish"
        | "TanH" | "Threshold" => None("it takes each value for itself"),
        "Embed" => None("an index may stand anywhere"),
        "Silence" | "Split" => None("it does not look at values"),
        "CoSData" | "Data" | "DummyData" | "HDF5Data" | "ImageData" | "Input" | "MemoryData" | "Parameter"
        | "WindowData" => None("it has no bottom"),
        "Python" => None("its class says"),
        "Accuracy" => Refused(&[
            (&[&[4, 3], &[5]], ""),
            (&[&[4], &[4]], ""),
            (&[&[4, 3], &[4]], "accuracy_param { top_k: 4 }"),
        ]),
        "ArgMax" => Refused(&[
            (&[&[2, 3]], "argmax_param { top_k: 4 }"),
            (&[&[2, 3]], "argmax_param { axis: 2 }"),
        ]),
        "BatchNorm" => Refused(&[(&[&[]], "")]),
        "BatchReindex" => Refused(&[(&[&[4, 2], &[2, 2]], ""), (&[&[], &[2]], "")]),
        "Bias" | "Scale" => Refused(&[(&[&[2, 3], &[2]], ""), (&[&[2]], "")]),
        "Concat" => Refused(&[(&[&[2, 3], &[3, 3]], ""), (&[&[2, 3], &[2, 3, 1]], ""), (&[&[2]], "")]),
        "ContrastiveLoss" => Refused(&[
            (&[&[2, 3], &[2, 4], &[2]], ""),
            (&[&[2, 3], &[2, 3], &[3]], ""),
            (&[&[2, 3, 2], &[2, 3, 2], &[2]], ""),
        ]),
        "Convolution" => Refused(&[
            (&[&[1, 2, 3, 3]], "convolution_param { num_output: 4 kernel_size: 5 }"),
            (
                &[&[1, 3, 6, 6]],
                "convolution_param { num_output: 4 kernel_size: 2 group: 2 }",
            ),
            (
                &[&[1, 2, 6, 6], &[1, 2, 6, 5]],
                "convolution_param { num_output: 4 kernel_size: 2 }",
            ),
            (&[&[5]], "convolution_param { num_output: 4 kernel_size: 1 }"),
            (
                &[&[1, 2, 6, 6]],
                "convolution_param { num_output: 4 kernel_size: 2 kernel_size: 2 kernel_size: 2 }",
            ),
        ]),
        "Crop" => Refused(&[
            (&[&[1, 2, 4, 4], &[1, 2, 5, 4]], ""),
            (&[&[1, 2, 4, 4], &[1, 2, 3, 3]], "crop_param { offset: 2 }"),
            (
                &[&[1, 2, 4, 4], &[1, 2, 3, 3]],
                "crop_param { offset: 0 offset: 0 offset: 0 }",
            ),
            (&[&[2, 3], &[2, 3]], ""),
        ]),
        "Deconvolution" => Refused(&[
            (
                &[&[1, 3, 4, 4]],
                "convolution_param { num_output: 4 kernel_size: 2 group: 2 }",
            ),
            (
                &[&[1, 2, 4, 4], &[1, 2, 4, 5]],
                "convolution_param { num_output: 4 kernel_size: 2 }",
            ),
            (
                &[&[1, 2, 1, 1]],
                "convolution_param { num_output: 4 kernel_size: 2 pad: 1 }",
            ),
        ]),
        "Eltwise" => Refused(&[(&[&[2, 3], &[3, 2]], ""), (&[&[2, 3], &[2, 3, 1]], "")]),
        "EuclideanLoss" | "SigmoidCrossEntropyLoss" => Refused(&[(&[&[2, 3], &[3, 2]], ""), (&[&[2, 3], &[2, 4]], "")]),
        "Filter" => Refused(&[(&[&[4, 2], &[3]], ""), (&[&[4, 2], &[4, 2]], "")]),
        "Flatten" => Refused(&[(&[&[2]], ""), (&[&[2, 3, 4]], "flatten_param { axis: 2 end_axis: 1 }")]),
        "HDF5Output" => Refused(&[
            (&[&[2, 3], &[3]], "hdf5_output_param { file_name: 'f.h5' }"),
            (&[&[], &[1]], "hdf5_output_param { file_name: 'f.h5' }"),
        ]),
        "HingeLoss" | "MultinomialLogisticLoss" => Refused(&[(&[&[2, 3], &[3]], ""), (&[&[], &[1]], "")]),
        "Im2col" => Refused(&[
            (&[&[1, 2, 3, 3]], "convolution_param { kernel_size: 4 }"),
            (&[&[5]], "convolution_param { kernel_size: 1 }"),
        ]),
        "InfogainLoss" => Refused(&[(&[&[2, 3], &[3], &[3, 3]], ""), (&[&[2, 3], &[2], &[2, 3]], "")]),
        "InnerProduct" => Refused(&[(&[&[4]], "inner_product_param { num_output: 2 }")]),
        "LRN" => Refused(&[(&[&[2, 3]], ""), (&[&[2, 3, 4, 4, 4]], "")]),
        "LSTM" | "RNN" => Refused(&[
            (&[&[4, 2], &[4, 2]], "recurrent_param { num_output: 3 }"),
            (&[&[4, 2, 3], &[2, 4]], "recurrent_param { num_output: 3 }"),
            (&[&[4, 2, 3], &[4, 2], &[3, 5]], "recurrent_param { num_output: 3 }"),
        ]),
        "LSTMUnit" => Refused(&[
            (&[&[2, 2, 3], &[1, 2, 12], &[1, 2]], ""),
            (&[&[1, 2, 3], &[1, 2, 11], &[1, 2]], ""),
            (&[&[1, 2, 3], &[1, 2, 12], &[2, 1]], ""),
        ]),
        "MVN" => Refused(&[(&[&[2, 3, 4, 4, 4]], "")]),
        "Pooling" => Refused(&[
            (&[&[2, 3, 4]], "pooling_param { kernel_size: 2 }"),
            (&[&[1, 2, 2, 2]], "pooling_param { kernel_size: 5 }"),
        ]),
        "PReLU" => Refused(&[(&[&[3]], "")]),
        "Reduction" => Refused(&[(&[&[2]], "reduction_param { axis: 1 }")]),
        "Reshape" => Refused(&[
            (&[&[2, 3]], "reshape_param { shape { dim: 4 dim: -1 } }"),
            (&[&[2, 3]], "reshape_param { shape { dim: 5 } }"),
            (&[&[2, 3]], "reshape_param { shape { dim: 0 dim: 0 dim: 0 } }"),
        ]),
        "Slice" => Refused(&[(&[&[2, 3]], ""), (&[&[2, 3]], "slice_param { slice_point: 3 }")]),
        "Softmax" => Refused(&[(&[&[2]], "")]),
        "SoftmaxWithLoss" => Refused(&[(&[&[2, 3], &[3]], ""), (&[&[2], &[2]], "")]),
        "SPP" => Refused(&[(&[&[2, 3]], "spp_param { pyramid_height: 1 }")]),
        "Tile" => Refused(&[(&[&[2]], "tile_param { tiles: 2 }")]),
        _ => panic!("{type_name}: say which shapes it refuses"),
    }
}

#[test]
fn wrong_shapes_are_refused_by_name() {
    for def in LAYERS {
        let build = |shapes: &[&[usize]], params: &str| {
            let inputs: String = (0..shapes.len()).map(|i| input(&format!("b{i}"), shapes[i])).collect();
            let tops = match def.type_name {
                "Convolution" | "Deconvolution" => shapes.len(),
                "Filter" => shapes.len() - 1,
                "Slice" => 2,
                _ => right_count(def.tops),
            };
            let tops: Vec<String> = (0..tops).map(|i| format!("t{i}")).collect();
            net(&(inputs + &layer_text(def, params, shapes.len(), &tops)))
        };
        let type_name = def.type_name;
        match wrong_shapes(type_name) {
            WrongShapes::Refused(cases) => {
                for (shapes, params) in cases {
                    let message = build(shapes, params)
                        .err()
                        .unwrap_or_else(|| panic!("{type_name} takes {shapes:?} with {params}"));
                    assert!(message.starts_with(&format!("layer 'L' ({type_name}): ")), "{message}");
                    let shown = shapes
                        .iter()
                        .any(|dims| message.contains(&crate::Shape::new(*dims).to_string()));
                    assert!(shown, "{type_name}: no shape in: {message}");
                }
            }
            WrongShapes::None(reason) => {
                assert!(!reason.is_empty());
                for dims in [&[][..], &[2, 1, 3, 1, 2]] {
                    if let (Arity::Exactly(1) | Arity::AtLeast(1), true) = (def.bottoms, type_name != "Python") {
                        build(&[dims], valid_params(def)).unwrap_or_else(|error| panic!("{error}"));
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_fields_are_refused_by_name() {
    for def in LAYERS {
        let bottoms = right_count(def.bottoms);
        let names: Vec<String> = (0..right_count(def.tops)).map(|i| format!("t{i}")).collect();
        let weights = "loss_weight: 1 ".repeat(names.len() + 1);
        let propagate = "propagate_down: true ".repeat(bottoms + 1);
        // Fields that a layer of any type may have, and one of each type that may be wrong by itself.
        let own = match def.type_name {
            "Accuracy" => "accuracy_param { top_k: 0 }",
            "BatchNorm" => "param { lr_mult: 0 } param { lr_mult: 1 }",
            "Bias" => "bias_param { num_axes: -2 }",
            "Clip" => "clip_param { min: 1 max: -1 }",
            "ArgMax" => "argmax_param { top_k: 0 }",
            "Concat" => "concat_param { axis: 0 concat_dim: 1 }",
            "Convolution" => "convolution_param { num_output: 4 group: 3 kernel_size: 1 }",
            "CoSData" => "cos_data_param { batch_size: 1 top { name: 'c' type: STRING } }",
            "Data" => "data_param { batch_size: 1 }",
            "Deconvolution" => "convolution_param { num_output: 4 kernel_size: 0 }",
            "Dropout" => "dropout_param { dropout_ratio: 1 }",
            "DummyData" => "dummy_data_param { shape { dim: -1 } }",
            "Eltwise" => "eltwise_param { operation: MAX coeff: 1 coeff: 2 }",
            "Exp" => "exp_param { base: 0 }",
            "InfogainLoss" => "loss_param { normalize: true }",
            "ImageData" => "image_data_param { source: 'list' new_height: 1 }",
            "HDF5Data" => "hdf5_data_param { batch_size: 1 }",
            "HDF5Output" => "hdf5_output_param { }",
            "InnerProduct" => "inner_product_param { num_output: 0 }",
            "Input" => "input_param { shape { dim: 3 dim: -1 } }",
            "LRN" => "lrn_param { local_size: 4 }",
            "Log" => "log_param { base: 1 }",
            "MemoryData" => "memory_data_param { batch_size: 1 channels: 1 height: 1 }",
            "PReLU" => "prelu_param { filler { type: 'none' } }",
            "Pooling" => "pooling_param { kernel_size: 2 pad: 2 }",
            "Scale" => "scale_param { num_axes: -2 }",
            "Embed" => "embed_param { num_output: 4 }",
            "Im2col" => "convolution_param { stride: 1 }",
            "LSTM" | "RNN" => "recurrent_param { num_output: 4 expose_hidden: true }",
            "Parameter" => "parameter_param { shape { dim: 0 } }",
            "Reshape" => "reshape_param { shape { dim: -2 } }",
            "SPP" => "spp_param { pyramid_height: 0 }",
            "Python" => "python_param { module: 'm' }",
            "Slice" => "slice_param { axis: 0 slice_dim: 1 }",
            "Tile" => "tile_param { tiles: 0 }",
            "WindowData" => {
                "window_data_param { source: 'list' batch_size: 1 context_pad: 4 } transform_param { crop_size: 8 }"
            }
            _ => &weights,
        };
        for wrong in [own, &weights, &propagate] {
            let params = if wrong == own { "" } else { valid_params(def) };
            let text = layer_text(def, &format!("{params} {wrong}"), bottoms, &names);
            let error = spec(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
            let (type_name, message) = (def.type_name, error.to_string());
            assert!(message.starts_with(&format!("layer 'L' ({type_name}): ")), "{message}");
        }
    }
}

/// Why a type cannot be held to what Caffe computed for a layer of it, and the test that stands in: file and name.
const WITHOUT_GOLDEN: &[(&str, &str, &str, &str)] = &[
    (
        "CoSData",
        "Caffe does not have it",
        "crates/train/tests/sources.rs",
        "cos_data_gives_each_top_its_column",
    ),
    (
        "Data",
        "golden/data has its records",
        "crates/data/tests/golden.rs",
        "golden_lmdbs_are_read_as_the_c_library_reads_them",
    ),
    (
        "DummyData",
        "its values are random",
        "crates/engine/src/layers/dummy_data.rs",
        "random_tops_have_their_fillers_distribution",
    ),
    (
        "HDF5Data",
        "its rows are those of a file",
        "crates/data/tests/hdf5.rs",
        "rows_come_in_the_order_of_the_files_and_begin_anew",
    ),
    (
        "HDF5Output",
        "it computes nothing",
        "crates/train/tests/hdf5.rs",
        "a_net_trains_on_hdf5_files_and_each_test_writes_its_rows",
    ),
    (
        "ImageData",
        "golden/data has its images",
        "crates/data/tests/golden.rs",
        "golden_images_are_resized_as_caffe_does",
    ),
    (
        "MemoryData",
        "its values come from a program",
        "python/tests/test_pycaffe.py",
        "test_input_arrays_feed_batch_after_batch",
    ),
    (
        "Parameter",
        "its top is its blob",
        "crates/engine/src/layers/parameter.rs",
        "the_top_is_the_blob_and_its_gradient_adds_up",
    ),
    (
        "Python",
        "its class says what it computes",
        "python/tests/test_layer.py",
        "test_a_loss_in_python_is_the_engines",
    ),
    (
        "WindowData",
        "its windows are drawn at random",
        "crates/data/tests/layer_sources.rs",
        "windows_are_drawn_by_kind_and_cut_where_they_lie",
    ),
];

/// What is random, and the test of how it is distributed.
const STATISTICAL: &[(&str, &str, &str)] = &[
    (
        "Dropout",
        "crates/engine/src/layers/dropout.rs",
        "drops_the_ratio_and_keeps_the_mean",
    ),
    (
        "Pooling",
        "crates/engine/src/layers/pooling.rs",
        "stochastic_draws_in_proportion_to_the_values",
    ),
    (
        "SPP",
        "crates/engine/src/layers/spp.rs",
        "stochastic_bins_draw_one_of_their_values",
    ),
    (
        "fillers",
        "crates/engine/src/filler.rs",
        "moments_follow_the_definitions",
    ),
];

#[test]
fn every_type_is_held_to_caffes_numbers_or_says_why_not() {
    let mut golden = BTreeSet::new();
    for entry in fs::read_dir(project().join("golden/layers")).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let net: NetParameter = text::parse("golden", &header.metadata().as_ref().unwrap()["prototxt"]).unwrap();
        golden.extend(net.layer.into_iter().map(|layer| layer.r#type().to_owned()));
    }
    for def in LAYERS {
        let reason = WITHOUT_GOLDEN.iter().any(|(name, ..)| *name == def.type_name);
        let type_name = def.type_name;
        assert!(
            golden.contains(type_name) != reason,
            "{type_name} has to have either a golden case or a reason for none"
        );
    }
    let stand_ins = WITHOUT_GOLDEN.iter().map(|(_, _, file, test)| (file, test));
    for (file, test) in stand_ins.chain(STATISTICAL.iter().map(|(_, file, test)| (file, test))) {
        let source = fs::read_to_string(project().join(file)).unwrap();
        assert!(source.contains(&format!(" {test}(")), "{file} has no test {test}");
    }
}
