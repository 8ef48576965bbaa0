"""Names the architectures that cannot be imported, judging by their keys."""

from collections.abc import Iterable
import re

# Regular expressions that are searched for in the keys, and the architecture
# that a match gives away. The first expression that matches counts.
_MARKS = (
  # Ways of storing a model, before the models themselves.
  (r'_packed_params|\.zero_point$|\.qweight$|\.SCB$|quant_map$|\.absmax$',
   'a quantised model'),
  (r'lora_[AB]\b|lora_(up|down)\b', 'a LoRA adapter without its model'),
  # Text.
  (r'word_embeddings|\btoken_type_embeddings|\broberta\.|\bdistilbert\.',
   'a text model (BERT or one like it)'),
  (r'embed_tokens|\bwte\.weight|tok_embeddings|\blm_head\.',
   'a language model'),
  # Images and text, and images to pixels.
  (r'text_model\.|vision_model\.|^visual\.|\.visual\.|text_projection',
   'a CLIP or SigLIP model'),
  (r'image_encoder\.|rel_pos_[hw]$', 'a SAM or ViTDet transformer'),
  (r'time_embed|down_blocks\.|unet\.|\bup_blocks\.', 'a diffusion model'),
  (r'bbox_embed|class_embed|\brpn\.|roi_heads|\.fpn\.|^fpn\.',
   'a detection network'),
  (r'decode_head|aspp|classifier\.0\.convs\.|aux_classifier',
   'a segmentation network, whose ResNet is dilated'),
  # Transformers.
  (r'attn_grid|grid_attn|window_attention', 'a MaxViT'),
  (r'cpb_mlp|continuous_position_bias', 'a Swin transformer v2'),
  (r'\brelative_position_bias_table|\bswin\.',
   'a Swin transformer'),
  (r'\bbeit\.|attn\.[qv]_bias$|relative_position_bias', 'a BEiT'),
  (r'blocks_token_only|\bcait\.', 'a CaiT'),
  (r'register_tokens|reg_token|storage_tokens',
   'a transformer with register tokens (DINOv2 or DINOv3)'),
  (r'dist_token|distillation_token|head_dist|distillation_classifier',
   'a distilled DeiT'),
  (r'\bdinov2\.|\bdinov3|layer_scale1\.|\bls1\.gamma|blocks\.\d+\.gamma_1$',
   'a transformer with layer scale (DINOv2, DeiT III)'),
  (r'mlp\.w12\.|mlp\.fc1_g\.|\beva\.|\brope\b', 'an EVA transformer'),
  (r'attention_biases', 'a LeViT or EfficientViT'),
  (r'\bmobilevit\.|conv_1x1_exp|\.global_rep\.', 'a MobileViT'),
  (r'token_mixer|\bpoolformer\.', 'a PoolFormer or MetaFormer'),
  (r'mlp_tokens|token_mixing', 'an MLP-Mixer'),
  (r'linear_tokens|spatial_gating', 'a ResMLP or gMLP'),
  (r'\bpvt|\.sr\.weight$|patch_embed[1-4]\.', 'a PVT or SegFormer'),
  (r'\bcvt\.|convolution_projection', 'a CvT'),
  (r'rel_pos_[ht]|pool_[qkv]\.', 'an MViT'),
  (r'patch_embed\.backbone\.', 'a hybrid of ResNet and ViT'),
  (r'\bdata2vec|\bvit_msn|\bvideomae\.|\bijepa\.', 'another transformer'),
  # Convolutional networks.
  (r'\.grn\.|\bconvnextv2\.', 'a ConvNeXt v2'),
  (r'denseblock|denselayer', 'a DenseNet'),
  (r'Mixed_\d|inception\d|\bMixed\.|Conv2d_1a', 'an Inception network'),
  (r'\bregnet\.|trunk_output\.|^s1\.b1\.|\.s1\.b1\.', 'a RegNet'),
  (r'conv_head\.|conv_stem\.|\befficientnet\.|mobilenet_v\d\.',
   'an EfficientNet or MobileNet'),
  (r'features\.\d+\.(squeeze|expand1x1)', 'a SqueezeNet'),
  (r'features\.\d+\.(\d+\.block|conv)\.', 'an EfficientNet or MobileNet'),
  (r'branch[12]\.\d+\.weight$|stage2\.0\.branch', 'a ShuffleNet'),
  (r'sepconv|\bblock\d+\.rep\.', 'an Xception'),
  (r'features\.\d+\.weight$', 'a VGG or AlexNet'),
  (r'rbr_(dense|1x1|reparam)', 'a RepVGG'),
  (r'\bdpn|conv\d_\d\.c1x1', 'a DPN'),
  (r'transition1\.|stage2\.0\.fuse_layers', 'an HRNet'),
  (r'darknet|\bmodel\.\d+\.cv\d', 'a Darknet or YOLO'),
  # Kinds of ResNet.
  (r'\.se\.|\.se_module\.|\.se\.?fc\d|\.se_layer\.',
   'a ResNet with squeeze-and-excitation'),
  (r'attnpool\.', "CLIP's ResNet"),
  (r'conv2\.(fc1|bn0|conv)\.weight|radix|conv2\.bn1\.', 'a ResNeSt'),
  (r'layer\d\.\d+\.convs\.\d', 'a Res2Net'),
  (r'conv2\.(paths|attn)\.', 'an SKNet'),
  (r'\.IN\.weight$', 'a ResNet with instance norm (IBN)'),
  (r'aa\.filt$|maxpool\.\d\.filt$|\.filt$',
   'a network with anti-aliasing filters of its own'),
  (r'\bbit\.|stages\.\d\.blocks\.\d+\.norm3\.|preact|\bblock\d\.unit',
   'a ResNet v2 (BiT)'),
  (r'layer\d\.\d+\.conv\d\.bias$',
   'a ResNet with its BatchNorms folded into the convolutions'),
  (r'layer\d\.\d+\.shortcut\.\d\.', 'a ResNet whose names are its own'),
)  # fmt: skip


def architecture(keys: Iterable[str]) -> str:
  """The architecture that the keys give away, in words; empty if none."""
  keys = [*keys]
  for pattern, name in _MARKS:
    search = re.compile(pattern).search
    if any(map(search, keys)):
      return name
  return ''
