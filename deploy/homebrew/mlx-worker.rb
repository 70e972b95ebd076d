# A template: the release workflow fills in the words between the at signs and attaches the formula to
# the release, to be copied into a tap. Not run by the authors: written without a Mac.

class MlxWorker < Formula
  desc "Serving node for MLX language models"
  homepage "@HOME@"
  url "@URL@", using: :nounzip
  version "@VERSION@"
  sha256 "@SHA256@"
  license "Apache-2.0"

  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.13"

  # The wheels of the dependencies are taken as they are: MLX's contains compiled Metal kernels, which
  # only a full Xcode could build again.
  def install
    system formula_python, "-m", "venv", libexec
    system libexec/"bin/python", "-m", "pip", "install", "--no-cache-dir", Dir["*.whl"].first
    bin.install_symlink libexec/"bin/mlx-worker"
    generate_completions_from_executable(bin/"mlx-worker", "completion")
  end

  def formula_python
    Formula["python@3.13"].opt_bin/"python3.13"
  end

  def caveats
    <<~TEXT
      A node that starts with the login, with its own log and its own place in Login Items:
        mlx-worker service install --config ~/node/mlx-worker.toml
    TEXT
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mlx-worker --version")
    (testpath/"mlx-worker.toml").write <<~TOML
      [[models]]
      id = "missing"
      path = "no-such-folder"
    TOML
    assert_match "no-such-folder", shell_output("#{bin}/mlx-worker check 2>&1", 66)
  end
end
