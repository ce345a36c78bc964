defmodule Caravan.Gen do
  # Effect. Reads the files of a project, shows what would change in them, and writes it.
  @moduledoc false

  alias Caravan.Gen.Diff
  alias Caravan.Gen.Options
  alias Caravan.Gen.Plan

  @typedoc "What the task does in place of this module: print a line, print an error, ask a question."
  @type shell :: %{
          info: (String.t() -> term),
          error: (String.t() -> term),
          yes?: (String.t() -> boolean)
        }

  @typedoc "0: the files are as they should be. 1: they are not, and were not written. 2: an error."
  @type status :: 0 | 1 | 2

  @doc "Runs the generator for the project in the directory `root`. It writes all files, or none if there is an error."
  @spec run([String.t()], Options.project(), Path.t(), shell) :: status
  def run(argv, project, root, shell) do
    with {:ok, options} <- Options.parse(argv, project),
         {:ok, contents} <- read(Plan.files(options), root),
         deploy? = File.exists?(Path.join(root, Plan.deploy())),
         {:ok, plan} <- Plan.new(options, contents, deploy?),
         :ok <- check_text(plan.changes),
         :ok <- check_writable(plan.changes, root) do
      for {path, old, new} <- plan.changes, do: shell.info.(Diff.text(path, old, new))
      status = write(plan.changes, options, root, shell)
      for note <- plan.notes, do: shell.info.(note)
      status
    else
      {:error, message} ->
        shell.error.("#{message} Nothing was written.")
        2
    end
  end

  defp write([], _options, _root, shell) do
    shell.info.("No file has to change.\n")
    0
  end

  defp write(changes, options, root, shell) do
    cond do
      options.dry_run ->
        shell.info.("Nothing was written, because of --dry-run.\n")
        1

      options.yes or shell.yes?.("Write these changes?") ->
        for {path, _old, new} <- changes do
          file = Path.join(root, path)
          File.mkdir_p!(Path.dirname(file))
          replace!(file, new)
          shell.info.("* wrote #{path}")
        end

        shell.info.("")
        0

      true ->
        shell.info.("Nothing was written.\n")
        1
    end
  end

  # A full disk or an interruption leaves the old file, with its mode and its symbolic link.
  defp replace!(file, text) do
    if File.exists?(file) do
      real = real_path(file)
      partial = real <> ".caravan"
      File.write!(partial, text)
      File.chmod!(partial, File.stat!(real).mode)
      File.rename!(partial, real)
    else
      File.write!(file, text)
    end
  end

  defp real_path(file) do
    case File.read_link(file) do
      {:ok, target} -> target |> Path.expand(Path.dirname(file)) |> real_path()
      {:error, _reason} -> file
    end
  end

  defp read(paths, root) do
    Enum.reduce_while(paths, {:ok, %{}}, fn path, {:ok, contents} ->
      case File.read(Path.join(root, path)) do
        {:ok, text} -> {:cont, {:ok, Map.put(contents, path, text)}}
        {:error, :enoent} -> {:cont, {:ok, Map.put(contents, path, nil)}}
        {:error, reason} -> {:halt, unusable(path, "a file that can be read", reason)}
      end
    end)
  end

  # `mix release` reads these files with EEx, which raises for other encodings than UTF-8. The shell could not print such a
  # change either.
  defp check_text(changes) do
    Enum.find_value(changes, :ok, fn {path, _old, new} ->
      unless String.valid?(new),
        do:
          {:error,
           "#{path}: expected text in UTF-8, got: other bytes. Save the file in UTF-8, which `mix release` needs too."}
    end)
  end

  defp check_writable(changes, root) do
    Enum.find_value(changes, :ok, fn {path, _old, _new} ->
      case writable(Path.join(root, path)) do
        :ok -> nil
        {:error, reason} -> unusable(path, "a file that can be written", reason)
      end
    end)
  end

  # To open a file for appending does not change it, and fails on a read-only file system too. For a new file, the nearest
  # directory that exists is examined.
  defp writable(path) do
    case File.stat(path) do
      {:ok, %{type: :directory, access: access}} when access in [:write, :read_write] -> :ok
      {:ok, %{type: :directory}} -> {:error, :eacces}
      {:ok, _file} -> with {:ok, device} <- File.open(path, [:append]), do: File.close(device)
      {:error, :enoent} -> path |> Path.dirname() |> writable()
      {:error, reason} -> {:error, reason}
    end
  end

  defp unusable(path, expected, reason) do
    {:error,
     "#{path}: expected #{expected}, got: #{:file.format_error(reason)}. Change its owner, its permissions or its path."}
  end
end
