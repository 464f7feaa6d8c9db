"""How Sphinx makes a site of the pages of this folder: see CONTRIBUTING.md."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parent / "extensions"))

import tfvae

project = "tfvae"
author = "the authors of tfvae"
version = release = tfvae.__version__
project_copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reading", "gallery"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"tfvae {version}"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]

# Links of the kind `serving.md#tables`.
myst_heading_anchors = 3
# The notebooks train models: an error in one is an error of the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# What they write is thrown away.
nb_execution_in_temp = True
nb_merge_streams = True

# A name between single backquotes in a docstring is a link if it is one of the package.
default_role = "py:obj"
add_module_names = False
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
autodoc_default_options = {
    "members": True,
    # Keras calls these of every layer and model, and what they do is what it documents.
    "exclude-members": "build, call, compile_from_config, compute_output_shape, from_config, get_config, "
    "load_own_variables, make_test_function, make_train_function, predict_on_batch, predict_step, save, "
    "save_own_variables, save_weights, test_step, train_on_batch, train_step",
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]
