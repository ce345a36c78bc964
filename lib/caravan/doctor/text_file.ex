defmodule Caravan.Doctor.TextFile do
  # Effect. Reads small configuration files that have comments.
  @moduledoc false

  # Bytes. Longer files are not read to their end.
  @max_size 65_536

  @doc "Returns the lines of a file, without those that are empty or begin with `#`."
  @spec lines(Path.t()) ::
          {:ok, [String.t()]} | {:error, :file.posix() | :badarg | :terminated | :system_limit}
  def lines(path) do
    with {:ok, file} <- :file.open(path, [:read, :raw, :binary]) do
      bytes = :file.read(file, @max_size)
      :ok = :file.close(file)

      case bytes do
        {:ok, text} -> {:ok, without_comments(text)}
        :eof -> {:ok, []}
        {:error, reason} -> {:error, reason}
      end
    end
  end

  defp without_comments(text) do
    text
    |> String.split("\n")
    |> Enum.map(&String.trim/1)
    |> Enum.reject(&(&1 == "" or String.starts_with?(&1, "#")))
  end
end
