"""Has every field of a config with its unit, and the values others share.

Other configs derive from this one in a few lines. Any field can be set on the
command line: `--config.batch_size=512`. The elements of a list are separated by
commas, and one element stands alone: `--config.nesting_dims=8,64,512`,
`--config.save=logits,labels`, `--config.eval_sets=imagenet_a,folder:/path`. An
element that reads as a number is a number, any other is text. Text in quotes
keeps its commas: `--config.eval_sets="'folder:/a,b'"`. `()` is the empty list.
A list that is given twice is refused.
"""

from ml_collections import ConfigDict
from ml_collections import FieldReference


def get_config() -> ConfigDict:
  config = ConfigDict()
  # The default workdir is runs/<name>.
  config.name = 'default'
  # Stages that run where --mode is left out.
  config.modes = (
    'train',
    'evaluate',
    'embed',
    'retrieve',
    'analyze',
    'report',
  )
  # Seeds the initialisation, the order of the examples, and the augmentation.
  config.seed = 0
  # Devices that split a batch (0: all), times devices that split the classes of
  # the head.
  config.mesh = ConfigDict({'data': 0, 'model': 1})
  # Split parameters and optimizer state over the devices of `data`, too.
  config.fsdp = False

  # Data: a TFDS name, digits, or folder:/path (see data/sources/datasets.py).
  config.dataset = 'imagenet2012'
  # Folder of the prepared TFDS datasets; empty: TFDS's default.
  config.data_dir = ''
  # Vectors in place of images, for configs/adapt_embeddings.py: a workdir, a
  # folder of <split>-x.npy and <split>-y.npy, or a .npy file, with its labels
  # in another. Empty: images.
  config.embeddings = ''
  config.labels = ''
  config.train_split = 'train'
  config.eval_split = 'validation'
  # Classes; 0: as many as the dataset says. More only where init_from has a run
  # with those of the dataset among its own.
  config.num_classes = 0
  # resident: decoded once and kept on the devices, each of which holds a share.
  # stream: decoded as needed. auto: resident if a share takes at most half of a
  # device's memory, or, on CPUs, if the split takes at most
  # `resident_gigabytes`; a run that is resumed goes on as it was begun.
  config.input = 'auto'
  config.resident_gigabytes = 2.0
  # What resizes streamed random crops, and the images of the evaluation: host,
  # device (which takes packed boxes), or auto: the host, or for crops what the
  # run was begun with that is resumed.
  config.resize_on = 'auto'
  # Side of the training images, pixels.
  config.image_size = 224
  # The same from `late_epoch` on (epochs count from 0), for streamed input; 0:
  # image_size throughout.
  config.late_image_size = 0
  config.late_epoch = 0
  # Evaluation: shorter side resized to (0: images are square and of
  # eval_image_size already), then side of the central crop, pixels. Resident
  # training images are stored so, too.
  config.eval_resize = 256
  config.eval_image_size = 224
  # A second evaluation, val_flip/…: logits averaged over each image and its
  # mirror image, as the released training logs have it. 0: none.
  config.flip_eval_image_size = 0
  config.flip_eval_resize = 0
  # random_resized_crop, shift (pad and crop), or none.
  config.augmentation = 'random_resized_crop'
  # Range of the random crop's share of the image's area.
  config.crop_scale = (0.08, 1.0)
  # Largest shift, pixels.
  config.shift = 4
  # Mirror half of the training images.
  config.flip = True
  # Mean and deviation of each channel, where pixels are in [0, 1].
  config.mean = (0.485, 0.456, 0.406)
  config.std = (0.229, 0.224, 0.225)
  # Read images as people see them: turned as their EXIF orientation says, and
  # transparent pixels over white. yes, no, or auto: the images of folders, and
  # those given to encode, classify and explain, but those of TFDS datasets as
  # they are stored, as the reference reads ImageNet.
  config.as_seen = 'auto'
  # Damaged images a run skips before it stops.
  config.max_damaged = 10
  # Threads that decode; 0: one for each core.
  config.num_threads = 0

  # Model (mrl_jax/models/__init__.py).
  config.encoder = 'resnet50'
  # Traits in place of the encoder's own, mostly for files of PyTorch, which do
  # not tell them; empty or 0: the encoder's own. stem of a ResNet: 7x7, 3x3 or
  # deep, then _stride1 or _stride2, then _pool or _no_pool, as in 7x7_stride1.
  config.stem = ''
  # Attention heads of a vision transformer.
  config.num_heads = 0
  # The embedding of a vision transformer: token (the class token), mean (of
  # the patches' tokens, each normed), or mean_then_norm.
  config.pooling = ''
  # Pixels of the image per pixel of a ResNet's last stage: 32, or 16 or 8, with
  # dilated convolutions in place of strides.
  config.output_stride = 0
  # Blur before strided convolutions (ResNets).
  config.blurpool = False
  # Share of the examples for which the last block is skipped, at random, fewer
  # before it (ConvNeXt and transformers).
  config.drop_path = 0.0
  # Compute activations inside blocks again in the backward pass: less memory.
  config.remat = False
  # Width of the branch of `adaptor`, the encoder of vectors.
  config.adaptor_hidden = 256
  # Computations are in float32 or bfloat16. Parameters are float32.
  config.dtype = 'bfloat16'
  # mrl, mrl_e or fixed, and the prefix widths of its classifiers; no widths: 8,
  # 16, … up to the encoder's. The head none has no classifiers: such a model
  # does not train, and is evaluated by its neighbours.
  config.head = 'mrl'
  config.nesting_dims = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
  # Loss weight of each width, the paper's c_m; empty: all 1. Or the name of a
  # preset, 8boost or 8+16boost, which favour the smallest.
  config.nesting_weights = ()
  # Widths that a step trains: the widest, and a random choice of the others,
  # weighted so that the loss expected is the same; 0: all.
  config.granularities_per_step = 0
  # Train each width by the network of as large a share of the channels, not by
  # a prefix of the whole one: the slimmable baseline (ResNets, mrl_e).
  config.slimmable = False

  # Start of a run: a workdir, one of its checkpoints, or a file of
  # PyTorch (mrl_jax/interop/pytorch/load.py). Empty: afresh.
  config.init_from = ''
  # Prefix of the keys of the network in a file of PyTorch that holds
  # several, as module.encoder_q; empty: it is found where there is one.
  config.init_prefix = ''
  # Parts that train, as layer4.2, head; the rest is frozen, its BatchNorm in
  # evaluation mode (mrl_jax/training/trainable.py). Empty: everything trains.
  config.trainable = ()

  # How the loss is computed: xla (blocks of classes where the logits are
  # large), or pallas (tiles; one GPU or TPU, compiled for both, run on none).
  config.loss_kernel = 'xla'

  # Training. The batch is the global one, over all devices and processes.
  config.batch_size = 1024
  # Parts of a device's batch whose gradients are taken one after another, where
  # a whole one does not fit; BatchNorm sees each on its own.
  config.micro_batches = 1
  # Examples that BatchNorm takes its statistics over: 0, the whole batch, over
  # all devices and processes; 'device', each device's share of it, as the
  # released PyTorch code has it for each process; or a number of examples,
  # which divides that share or is a multiple of it. Where a device holds whole
  # groups, ResNets train with few all-reduces.
  config.batch_norm_group = FieldReference(0, field_type=object)
  config.num_epochs = 40
  # At the schedule's peak, for this batch size; it is not rescaled.
  config.learning_rate = 0.425
  # cyclic, cosine, step or constant; per iteration.
  config.schedule = 'cyclic'
  # Epoch of the peak of cyclic; end of the warm-up of cosine.
  config.peak_epoch = 2.0
  # step: multiply by step_factor at each of these epochs.
  config.step_epochs = (30, 60, 80)
  config.step_factor = 0.1
  # sgd, with momentum, or adamw, with betas.
  config.optimizer = 'sgd'
  config.momentum = 0.9
  config.betas = (0.9, 0.999)
  config.weight_decay = 1e-4
  # Parameters that decay: all, no_norm_no_bias, or reference.
  config.decay_mask = 'reference'
  config.label_smoothing = 0.1

  # Records. Steps between log lines; epochs between evaluations and
  # checkpoints (the end of training always has both).
  config.log_every_steps = 50
  config.eval_every_epochs = 1
  config.checkpoint_every_epochs = 1
  # START:STOP writes a profiler's trace of these steps to profile/.
  config.profile = ''
  # Checkpoints kept, beside the best.
  config.keep_checkpoints = 2

  # After training. Checkpoint that is evaluated: last or best.
  config.checkpoint = 'last'
  config.eval_batch_size = 512
  # Widths measured beside the nesting dims: by 1-NN and retrieval, and for
  # mrl_e by its classifier too.
  config.eval_dims = ()
  # Other sets to evaluate on: imagenet_v2, imagenet_a, imagenet_r,
  # imagenet_sketch, imagenet_real, objectnet=folder:/path, DATASET@SPLIT of
  # TFDS, or folder:/path with folders of the model's classes
  # (mrl_jax/data/sources/eval_sets.py).
  config.eval_sets = ()
  # In the stage evaluate, average the logits over each image and its mirror
  # image.
  config.eval_flip = False
  # Neighbours that vote, beside the nearest alone.
  config.knn = 10
  # Nearest class means: examples of each class, classes (0: all; never more
  # than there are), and random draws of both.
  config.few_shot = ConfigDict({'shots': (1, 5), 'ways': (10, 0), 'repeats': 5})
  # Outputs that evaluate saves of the evaluation split: logits, predictions,
  # labels; where analyze is among the modes, all of them.
  config.save = ()
  # Analysis. Groups of classes: a JSON file, class to group, or wordnet_30 for
  # ImageNet's (mrl_jax/data/sources/tables/README.md); empty: none.
  config.superclasses = ''
  # Cascades are fitted on a share of the examples and tested on the others, as
  # often as `repeats`. Confidences are those of logits / temperature; 0.5 with
  # eval_flip is the paper's, which adds up the logits of mirror images.
  config.cascade = ConfigDict(
    {'repeats': 30, 'fit_share': 0.2, 'temperature': 1.0}
  )
  config.retrieval = ConfigDict()
  # Neighbours kept for each query; and rows an adaptive search reranks.
  config.retrieval.k = 100
  config.retrieval.shortlist = 200
  return config
